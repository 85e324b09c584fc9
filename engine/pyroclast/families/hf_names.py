"""Names of a folder's tensors as they really are, brought to those of the families' tables.

A model that also sees pictures keeps its text model under `language_model`, and some exports leave
the first part of every name away.
"""

from __future__ import annotations

from collections.abc import Iterable

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
# A head that predicts further tokens, to be verified: it does not change what the model says.
DRAFTING = "mtp."


def table_names(family: Family, names: Iterable[str]) -> dict[str, str]:
    """Name in the folder -> name in family.hf_tensors' spelling; parts that see are left out."""
    found = {name: renamed for name in names if (renamed := _text_name(name)) is not None}
    first = family.hf_tensors["token_embd"].split(".")[0] + "."
    if any(renamed.startswith(first) for renamed in found.values()):
        return found
    head = family.hf_tensors["output"]
    return {name: each if each == head else first + each for name, each in found.items()}


def _text_name(name: str) -> str | None:
    if name.removeprefix("model.").startswith((*_OTHERS, DRAFTING)):
        return None
    for old, new in _TEXT:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
