"""A GGUF file of type "adapter", as llama.cpp's convert_lora_to_gguf.py writes it."""

from __future__ import annotations

import math

from pyroclast.checkpoint.adapter.pairs import Pair, StoredPair, match_pairs
from pyroclast.checkpoint.parts import Naming, StoredTensor
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.files.gguf import GGUFFile

_A, _B = ".lora_a", ".lora_b"
_ALPHA, _INVOCATION = "adapter.lora.alpha", "adapter.alora.invocation_tokens"


def gguf_pairs(file: GGUFFile, family: Family, config: ModelConfig) -> dict[str, Pair]:
    """What the file adds to each weight of a model of that config, which GGUF files write as one
    of that family."""
    _check_keys(file, family.gguf_architecture)
    alpha = file.metadata.get(_ALPHA, 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise ModelFileError(f"{_ALPHA} must be a finite number, got {alpha!r}")
    pairs = {}
    for name in file.tensors:
        key = name.removesuffix(_A).removesuffix(_B)
        if key == name:
            raise UnsupportedModelError(
                f"tensor {name!r} is no matrix of plain LoRA; only ...{_A} and ...{_B} are "
                "supported"
            )
        for other in (key + _A, key + _B):
            if other not in file.tensors:
                raise ModelFileError(f"tensor {other!r} is missing")
        a, b = _stored(file, key + _A), _stored(file, key + _B)
        # Without an alpha llama.cpp scales by 1.
        pairs[key] = StoredPair(a, b, alpha / max(1, a.shape[0]) if alpha else 1.0)
    return match_pairs(config, Naming.of_gguf(family), pairs)


def _check_keys(file: GGUFFile, architecture: str | None) -> None:
    metadata = file.metadata
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if metadata.get(key) != wanted:
            raise UnsupportedModelError(
                f"no LoRA adapter: {key} must be {wanted!r}, got {metadata.get(key)!r:.100}"
            )
    if metadata.get("general.architecture") != architecture:
        raise ModelFileError(
            "the adapter is for another base: general.architecture is "
            f"{metadata.get('general.architecture')!r:.100}, and the base's is {architecture!r}"
        )
    if _INVOCATION in metadata:
        raise UnsupportedModelError(
            f"{_INVOCATION}: adapters that a phrase calls are not supported"
        )


def _stored(file: GGUFFile, name: str) -> StoredTensor:
    info = file.tensors[name]
    return StoredTensor(
        info.name, info.shape, info.format.upper(), info.format, file.file, info.offset
    )
