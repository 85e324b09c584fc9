"""Tasks for a chat model whose answers repeat their prompts more or less."""

from __future__ import annotations

_CODE = '''\
def area(width, height):
    """The area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("a rectangle has no negative side")
    return width * height


def perimeter(width, height):
    """The perimeter of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("a rectangle has no negative side")
    return 2 * (width + height)
'''
_JSON = """\
[{"name": "Etna", "country": "Italy", "height_m": 3403, "active": true},
 {"name": "Teide", "country": "Spain", "height_m": 3715, "active": true},
 {"name": "Elbrus", "country": "Russia", "height_m": 5642, "active": false},
 {"name": "Fuji", "country": "Japan", "height_m": 3776, "active": true}]"""
_REPORT = """\
The observatory recorded forty small earthquakes below the north flank on Monday. "We see no sign of
rising magma," said the head of the observatory. The road to the upper station stays closed until
Friday, because stones fall on it after each rain. "Nobody should walk there alone," the mayor said.
Last year two hikers were hurt at the same place. The next report comes on Thursday at noon."""

# An answer holds most of its prompt, all of it in another order, some sentences, or little.
TASKS = {
    "code edit": "Rename width to w and height to h, and change nothing else. "
    f"Write the whole code again.\n\n{_CODE}",
    "JSON rewrite": "Write this JSON again, sorted by height_m, and keep all fields.\n\n" + _JSON,
    "summary with quotes": f"Sum up this report and quote both speakers.\n\n{_REPORT}",
    "prose": "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
}
