"""Tensors that predict further tokens: layers behind the others, or a head of its own.

They propose drafts, which a step verifies, so leaving them out does not change what a model says.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.families.hf_names import DRAFTING
from pyroclast.families.hyperparameters import Hyperparameters

log = logging.getLogger("pyroclast")


def without_drafting(
    stored: dict[str, StoredTensor], h: Hyperparameters
) -> dict[str, StoredTensor]:
    """Of a GGUF file: the tensors of all other layers."""
    n_drafting = h.extra.get("n_draft_layers", 0)
    layers = tuple(f"blk.{i}." for i in range(h.n_layers, h.n_layers + n_drafting))
    found = {name: each for name, each in stored.items() if not name.startswith(layers)}
    _tell(len(stored) - len(found))
    return found


def tell_drafting(names: Collection[str]) -> None:
    """Of a folder, whose table of names passes such tensors over."""
    _tell(sum(name.removeprefix("model.").startswith(DRAFTING) for name in names))


def _tell(n_left_out: int) -> None:
    if n_left_out:
        log.info(
            "%d tensors that predict further tokens are left out: drafts come from the text itself",
            n_left_out,
        )
