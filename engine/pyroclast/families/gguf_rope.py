"""Rotary positions as a GGUF file's metadata and tensors state them.

llama.cpp's converter writes Llama 3's scaling as the tensor rope_freqs.weight, LongRoPE's factors
as two tensors, and the other kinds as keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.checks import check_positive
from pyroclast.families.rope import RopeScaling
from pyroclast.files.gguf_metadata import Metadata

FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
# Tensors whose values the config needs.
ROPE_TENSORS = (FREQS, LONG, SHORT)
_KINDS = ("none", "linear", "yarn", "longrope")


def rope_scaling(
    metadata: Metadata, prefix: str, vectors: Mapping[str, tuple[float, ...]], longest: Any
) -> RopeScaling | None:
    """The scaling of a file whose keys begin with prefix; longest is its context."""

    def value(key: str, default: Any = None) -> Any:
        return metadata.get(f"{prefix}rope.{key}", default)

    factor = value("scaling.factor", value("scale_linear", 1.0))
    # A factor without a type is linear, as in llama.cpp.
    kind = value("scaling.type", "linear" if factor != 1 else "none")
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"{prefix}rope.scaling.type {kind!r} is not supported; supported: {', '.join(_KINDS)} "
            "(and Llama 3's, as the tensor rope_freqs.weight)"
        )
    if LONG in vectors or SHORT in vectors:
        return _longrope(vectors, value("scaling.original_context_length", longest), value, longest)
    if kind == "longrope":
        raise ModelFileError(
            f"{prefix}rope.scaling.type is longrope, but tensor {LONG!r} is missing"
        )
    if kind == "none" or (kind == "linear" and factor in (0, 1)):
        return None
    if kind == "linear":
        return RopeScaling("linear", factor)
    found = {"original_max_seq_len": value("scaling.original_context_length", longest)}
    names = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
    found |= {name: value(f"scaling.{key}") for name, key in names.items()}
    if value("scaling.yarn_log_multiplier"):
        found |= {"mscale": 1.0, "mscale_all_dim": value("scaling.yarn_log_multiplier")}
    found["attention_factor"] = value("scaling.yarn_attn_factor")
    if value("scaling.attn_factor", 1.0) != 1:
        # This one multiplies the amplitude that the factor gives.
        check_positive(f"{prefix}rope.scaling.factor", factor)
        check_positive(f"{prefix}rope.scaling.attn_factor", value("scaling.attn_factor"))
        usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
        found["attention_factor"] = usual * value("scaling.attn_factor")
    given = {name: each for name, each in found.items() if each is not None}
    return RopeScaling("yarn", factor, **given)


def _longrope(
    vectors: Mapping[str, tuple[float, ...]], original: Any, value: Any, longest: Any
) -> RopeScaling:
    for name in (LONG, SHORT):
        if name not in vectors:
            raise ModelFileError(f"tensor {name!r} is missing; LongRoPE has two lists of factors")
    sizes = [x for x in (longest, original) if isinstance(x, int) and not isinstance(x, bool)]
    if len(sizes) != 2 or sizes[1] < 1:
        raise ModelFileError(f"rope.scaling.original_context_length must be >= 1, got {original!r}")
    amplitude = value("scaling.attn_factor")
    return RopeScaling(
        "longrope",
        sizes[0] / sizes[1],
        original_max_seq_len=original,
        attention_factor=1.0 if amplitude is None else amplitude,
        short_factors=vectors[SHORT],
        long_factors=vectors[LONG],
    )
