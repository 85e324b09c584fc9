"""Tasks for a chat model whose answers repeat their prompts more or less, with eight requests each.

The requests of a task ask for the same of different texts, so that no answer holds another one.
"""

from __future__ import annotations

import json
from typing import Any

N_REQUESTS = 8

_CODE = '''\
def {first}({a}, {b}):
    """The {first} of {thing}."""
    if {a} < 0 or {b} < 0:
        raise ValueError("{thing} takes no negative numbers")
    return {first_is}


def {second}({a}, {b}):
    """The {second} of {thing}."""
    if {a} < 0 or {b} < 0:
        raise ValueError("{thing} takes no negative numbers")
    return {second_is}
'''
# What the code computes: a thing, its parameters, and two functions with their results.
_THINGS = (
    ("a rectangle", "width height", "area", "{a} * {b}", "perimeter", "2 * ({a} + {b})"),
    ("a trip", "speed hours", "distance", "{a} * {b}", "fare", "3 + {a} * {b} // 2"),
    ("a room", "length breadth", "floor", "{a} * {b}", "walls", "5 * ({a} + {b})"),
    ("a shelf", "boards screws", "cost", "9 * {a} + {b}", "weight", "2 * {a} + {b} / 50"),
    ("a loan", "debt rate", "interest", "{a} * {b} / 100", "balance", "{a} * (1 + {b} / 100)"),
    ("a body", "mass velocity", "momentum", "{a} * {b}", "energy", "{a} * {b} ** 2 / 2"),
    ("a tube", "radius length", "volume", "3.14 * {a} ** 2 * {b}", "surface", "6.28 * {a} * {b}"),
    ("a field", "rows plants", "harvest", "{a} * {b}", "border", "2 * {a} + 2 * {b}"),
)
_RECORDS: tuple[dict[str, Any], ...] = (
    {"name": "Etna", "country": "Italy", "height_m": 3403, "active": True, "city": "Catania"}
    | {"first_ascent": 1440, "rock": "basalt", "guides": ["Ines", "Omar"]},
    {"title": "Emma", "author": "Austen", "pages": 474, "lent": False, "published": 1815}
    | {"publisher": "Murray", "language": "English", "shelves": ["novels", "classics"]},
    {"host": "atlas", "rack": "north", "port": 8080, "online": True, "memory_gb": 64}
    | {"owner": "search", "system": "linux", "disks": ["fast", "slow"]},
    {"dish": "ramen", "cook": "Aiko", "calories": 520, "vegan": False, "minutes": 45}
    | {"origin": "Japan", "course": "main", "spices": ["ginger", "garlic"]},
    {"river": "Danube", "source": "Donaueschingen", "length_km": 2850, "dammed": True}
    | {"mouth": "Black Sea", "countries": 10, "capitals": ["Vienna", "Budapest", "Belgrade"]},
    {"order": 70412, "customer": "Lena Berg", "product": "desk lamp", "price": 39.5, "paid": True}
    | {"carrier": "rail", "days": 3, "notes": ["gift", "call first"]},
    {"flight": "KL1402", "origin": "Oslo", "destination": "Lisbon", "gate": "B12", "seats": 186}
    | {"delayed": False, "pilot": "Marta Ruiz", "meals": ["pasta", "salad"]},
    {"song": "Low Tide", "singer": "Priya Nair", "album": "Harbour", "seconds": 214, "live": False}
    | {"year": 2019, "label": "Norden", "genres": ["folk", "jazz"]},
)
_REPORT = (
    '{who} recorded {what} on Monday. "{first}," said the head of the {office}. {closed} stays '
    'closed until Friday, because {why}. "{second}," the mayor said. Last year two people were '
    "hurt at the same place. The next report comes on Thursday at noon."
)
_REPORTS = (
    ("The observatory", "forty small earthquakes below the north flank", "observatory"),
    ("The harbour office", "waves of five metres at the outer pier", "harbour office"),
    ("The forest service", "three fires in the dry valley", "forest service"),
    ("The river office", "the highest level in ten years at the old mill", "river office"),
    ("The weather station", "gusts of a hundred kilometres an hour", "weather station"),
    ("The railway", "cracks in both arches of the old bridge", "railway"),
    ("The avalanche service", "two metres of fresh snow below the pass", "avalanche service"),
    ("The city laboratory", "too much nitrate in the wells of the old town", "laboratory"),
)
# Of the same reports: what the head says, what is closed and why, and what the mayor says.
_SAYINGS = (
    (
        "We see no sign of rising magma",
        "The road to the upper station",
        "stones fall on it after each rain",
        "Nobody should walk there alone",
    ),
    (
        "The storm will turn north tonight",
        "The ferry to the islands",
        "its ramp was torn off",
        "Please leave the boats where they are",
    ),
    (
        "We will have them under control by Wednesday",
        "The camp at the lake",
        "the only way out leads through the smoke",
        "No one may light so much as a candle",
    ),
    (
        "The dams will hold if the rain stops",
        "The lower bridge",
        "logs drift against its pillars",
        "We have sand and bags for every house",
    ),
    (
        "This was the strongest gale since we began to measure",
        "The park behind the castle",
        "branches still hang loose in the oaks",
        "The trees will be replaced in spring",
    ),
    (
        "The arches will carry a train again",
        "The line along the coast",
        "new stones have to dry for a week",
        "Buses will run every twenty minutes",
    ),
    (
        "The danger is greatest in the afternoon",
        "The east slope",
        "a slab has broken loose above the hut",
        "Those who ski there risk the lives of others",
    ),
    (
        "Boiling the water does not help",
        "The fountain on the market",
        "children drink from it",
        "Every household gets bottles from us for free",
    ),
)
_STORIES = (
    "a lighthouse keeper who finds a letter in a bottle",
    "a clockmaker who repairs a clock that runs backwards",
    "a girl who teaches a crow to count",
    "a sailor who is afraid of the open sea",
    "two brothers who inherit one bicycle",
    "a baker who wakes up in a town without bread",
    "a gardener who grows a blue rose",
    "an old pilot who flies one last time",
)


def _code_edits() -> list[str]:
    found = []
    for thing, parameters, first, first_is, second, second_is in _THINGS:
        a, b = parameters.split()
        results = {"first_is": first_is.format(a=a, b=b), "second_is": second_is.format(a=a, b=b)}
        code = _CODE.format(thing=thing, a=a, b=b, first=first, second=second, **results)
        found.append(
            f"Rename {a} to {a[0]} and {b} to {b[0]}, and change nothing else. "
            f"Write the whole code again.\n\n{code}"
        )
    return found


def _summaries() -> list[str]:
    found = []
    for (who, what, office), (first, closed, why, second) in zip(_REPORTS, _SAYINGS, strict=True):
        report = _REPORT.format(
            who=who, what=what, office=office, first=first, closed=closed, why=why, second=second
        )
        found.append(f"Sum up this report and quote both speakers.\n\n{report}")
    return found


# An answer holds most of its prompt, all of it with other spaces, some sentences, or little.
TASKS = {
    "code edit": _code_edits(),
    "JSON rewrite": [
        f"Format this JSON with an indent of two spaces.\n\n{json.dumps(record)}"
        for record in _RECORDS
    ],
    "summary with quotes": _summaries(),
    "prose": [f"Tell a short story about {about}." for about in _STORIES],
}
