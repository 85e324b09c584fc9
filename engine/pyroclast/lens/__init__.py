"""How a model picks the next token, as data: what the page `look`, `pyroclast next` and you read.

    from pyroclast import LLM, lens

    with LLM("smollm2-135m-instruct") as llm:
        found = lens.next_token(llm, "The capital of France is")
        print(found.entropy, [(each.text, each.p) for each in found.top[:3]])

Every function takes a loaded LLM and a context: text, token ids, or messages.  It returns a frozen
dataclass of plain values and NumPy arrays; docstrings state their shapes.  The numbers are those of
the engine itself, to the bit, and other requests go on meanwhile.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyroclast.lens.about import facts
    from pyroclast.lens.choice import next_token
    from pyroclast.lens.deadline import Deadline
    from pyroclast.lens.depth import layers
    from pyroclast.lens.draw import redraw, trace
    from pyroclast.lens.export import draw_page
    from pyroclast.lens.looks import attention, movement, rotation
    from pyroclast.lens.ops import hood
    from pyroclast.lens.places import analogy, neighbours, sentences, word_map
    from pyroclast.lens.runs import learning, training, training_runs
    from pyroclast.lens.text import pieces, tokens
    from pyroclast.lens.variants import Variant, variant
    from pyroclast.lens.versus import Setting, compare
    from pyroclast.lens.writing import generate

_HOMES = {
    "choice": ["next_token"],
    "deadline": ["Deadline"],
    "depth": ["layers"],
    "draw": ["redraw", "trace"],
    "about": ["facts"],
    "export": ["draw_page"],
    "looks": ["attention", "movement", "rotation"],
    "ops": ["hood"],
    "places": ["analogy", "neighbours", "sentences", "word_map"],
    "runs": ["learning", "training", "training_runs"],
    "text": ["pieces", "tokens"],
    "variants": ["Variant", "variant"],
    "versus": ["Setting", "compare"],
    "writing": ["generate"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Deadline",
    "Setting",
    "Variant",
    "analogy",
    "attention",
    "compare",
    "draw_page",
    "facts",
    "generate",
    "hood",
    "layers",
    "learning",
    "movement",
    "neighbours",
    "next_token",
    "pieces",
    "redraw",
    "rotation",
    "sentences",
    "tokens",
    "trace",
    "training",
    "training_runs",
    "variant",
    "word_map",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pyroclast.lens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pyroclast.lens.{_HOME_OF[name]}"), name)
