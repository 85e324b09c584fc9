"""Names of a folder's tensors as they really are, brought to those of the families' tables.

A model that also sees pictures keeps its text model under `language_model`, and some exports leave
the first part of every name away.  A head that predicts further tokens counts its layers by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyroclast.families.draft_head import HF_PREFIX
from pyroclast.families.family import Family

_TEXT = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
# The parts that see and hear.
_OTHERS = (
    "vision_tower.", "multi_modal_projector.", "vision_model.", "vision_encoder.", "visual.",
    "embed_vision.", "vision_embedder.", "audio_tower.", "embed_audio.",
)  # fmt: skip


def table_names(
    family: Family, names: Iterable[str], draft_layer: int | None = None
) -> dict[str, str]:
    """Name in the folder -> name in family.hf_tensors' spelling.  Parts that see are left out.
    draft_layer: the number of the layer of a head that predicts further tokens; None leaves the
    head out."""
    both = ((name, _text_name(name, draft_layer)) for name in names)
    found = {name: renamed for name, renamed in both if renamed is not None}
    first = family.hf_tensors["token_embd"].split(".")[0] + "."
    others = (renamed for name, renamed in found.items() if not is_of_draft_head(name))
    if any(renamed.startswith(first) for renamed in others):
        return found
    head = family.hf_tensors["output"]
    return {
        name: each if each == head or is_of_draft_head(name) else first + each
        for name, each in found.items()
    }


def is_of_draft_head(name: str) -> bool:
    """Whether the folder's tensor belongs to a head that predicts further tokens."""
    return name.removeprefix("model.").startswith(HF_PREFIX)


def _text_name(name: str, draft_layer: int | None) -> str | None:
    if is_of_draft_head(name):
        return None if draft_layer is None else _in_layer(name, draft_layer)
    if name.removeprefix("model.").startswith(_OTHERS):
        return None
    for old, new in _TEXT:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _in_layer(name: str, layer: int) -> str:
    """The head's tensor as one of the layer of that number; it has a single one."""
    own = name.removeprefix("model.")
    inside = own.removeprefix(HF_PREFIX + "layers.0.")
    return f"model.layers.{layer}.{own if inside == own else inside}"
