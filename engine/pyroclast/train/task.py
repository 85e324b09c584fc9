"""The task that `finetune` learns by default: a sentence about an order, and the order as JSON."""

from __future__ import annotations

import json
import random
from typing import Any

N_EXAMPLES = 480
SYSTEM = "Write the order as JSON."
_WORDS = {
    "name": "Ada Ben Carla Dina Emil Fatima Goran Hana Ivan Julia Kofi Lena Mara Nils Olga Pablo "
    "Rosa Sven Tara Uma Viktor Wanda Yusuf Zoe",
    "item": "apples bolts books boots bulbs cables candles carpets chairs clocks cups desks doors "
    "hammers jackets kettles lamps maps mirrors nails pans pens plates ropes shovels spoons tables "
    "tents towels",
    "city": "Athens Berlin Cairo Dakar Delhi Dublin Geneva Hanoi Kyoto Lagos Lima Lisbon London "
    "Madrid Nairobi Oslo Paris Prague Quito Rome Seoul Sofia Tunis Vienna Warsaw",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}
_COUNTS = "two three four five six seven eight nine ten eleven twelve"
_SENTENCES = (
    "{name} needs {count} {item} in {city} by {day}.",
    "Please send {count} {item} to {name} in {city} on {day}.",
    "On {day}, {count} {item} go to {city} for {name}.",
    "{city}, {day}: {name} ordered {count} {item}.",
    "For {name}: {count} {item}, to arrive in {city} on {day}.",
    "By {day} our customer {name} from {city} wants {count} {item}.",
)


def examples(n: int = N_EXAMPLES, seed: int = 0) -> list[dict[str, Any]]:
    """n different examples as messages: no two have the same sentence."""
    draw = random.Random(seed)  # noqa: S311 - data, not secrets
    words = {kind: each.split() for kind, each in _WORDS.items()}
    counts = _COUNTS.split()
    found: dict[str, dict[str, Any]] = {}
    while len(found) < n:
        count = draw.randrange(2, 2 + len(counts))
        spelt = counts[count - 2] if draw.random() < 0.5 else str(count)
        order = {kind: draw.choice(each) for kind, each in words.items()}
        sentence = draw.choice(_SENTENCES).format(count=spelt, **order)
        answer = json.dumps({"count": count, **order})
        found[sentence] = {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": sentence},
                {"role": "assistant", "content": answer},
            ]
        }
    return list(found.values())
