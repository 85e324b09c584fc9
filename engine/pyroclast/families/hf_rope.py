"""Rotary positions as config.json states them, in the spelling of every release of transformers.

`rope_parameters` since transformers 5, with one object for each kind of layer where there are two;
before that `rope_scaling` beside `rope_theta`, and `type` for `rope_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.rope import RopeScaling

_FULL, _WINDOWED = "full_attention", "sliding_attention"
_LLAMA3 = ("low_freq_factor", "high_freq_factor")
_YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
_PROPORTIONAL = "proportional"  # a share of the pairs turns, as if all did: the family's to say
_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def rope_values(
    family: Family, config: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of Hyperparameters: scalings, and what stands among the rope parameters; {} where
    there are none.  values are the fields that are known so far, of which max_seq_len is needed.
    """
    rope = rope_parameters(config)
    if not rope:
        return {}
    full: Mapping[str, Any] = rope
    windowed: Mapping[str, Any] = {}
    if _FULL in rope or _WINDOWED in rope:
        full, windowed = (_object(key, rope.get(key)) for key in (_FULL, _WINDOWED))
    found: dict[str, Any] = {
        "rope_scaling": _scaling(_plain(family, full), config, values),
        "window_rope_scaling": _scaling(windowed, config, values),
    }
    if full.get("rope_theta") is not None:
        found["rope_theta"] = full["rope_theta"]
    if windowed.get("rope_theta") is not None:
        found["window_rope_theta"] = windowed["rope_theta"]
    keys = {**family.hf_rope_keys, **family.hf_rope_carried}
    return found | {field: full.get(key) for field, key in keys.items()}


def _plain(family: Family, rope: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters without the kind that the family knows by itself; a factor beside it divides
    all frequencies."""
    if "rope_kind" not in family.hf_rope_keys or rope.get("rope_type") != _PROPORTIONAL:
        return rope
    factor = rope.get("factor")
    return {**rope, "rope_type": "default" if factor in (None, 1) else "linear"}


def rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that has them; {} where there is none."""
    for key in ("rope_scaling", "rope_parameters"):
        if config.get(key) is not None:
            return _object(key, config[key])
    return {}


def partial_rotary_factor(config: Mapping[str, Any]) -> Any:
    """Which share of a head rotates, as the file has it; None where it does not say."""
    rope = rope_parameters(config)
    return _object(_FULL, rope.get(_FULL, rope)).get(
        "partial_rotary_factor", config.get("partial_rotary_factor")
    )


def _object(key: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFileError(f"{key} must be an object, got {value!r}")
    return value


def _scaling(
    rope: Mapping[str, Any], config: Mapping[str, Any], values: Mapping[str, Any]
) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "su" or (kind == "yarn" and "long_factor" in rope):
        kind = "longrope"  # early Phi-3 folders
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedModelError(
            f"rope type {kind!r} is not supported; supported: {', '.join(_KINDS)}"
        )
    if kind == "default":
        return None
    longest = values.get("max_seq_len")
    original = longest
    if kind != "dynamic":
        # A key beside the rope parameters counts first, as in transformers.
        key = "original_max_position_embeddings"
        original = config.get(key) or rope.get(key) or longest
    found: dict[str, Any] = {"factor": rope.get("factor"), "original_max_seq_len": original}
    if kind == "llama3":
        found |= {key: _required(rope, key, kind) for key in _LLAMA3}
    if kind in ("yarn", "longrope"):
        names = _YARN if kind == "yarn" else _YARN[:1]
        found |= {key: rope[key] for key in names if rope.get(key) is not None}
        if found["factor"] is None:
            found["factor"] = _ratio(longest, original)
    if kind == "longrope":
        found["short_factors"] = _factors(rope, "short_factor")
        found["long_factors"] = _factors(rope, "long_factor")
    if found["factor"] is None:
        _required(rope, "factor", kind)
    if kind == "linear":
        del found["original_max_seq_len"]
    return RopeScaling(kind, **found)  # type: ignore[arg-type]


def _required(rope: Mapping[str, Any], key: str, kind: str) -> Any:
    if rope.get(key) is None:
        raise ModelFileError(f"{key!r} is missing in the {kind} rope scaling")
    return rope[key]


def _ratio(longest: Any, original: Any) -> float | None:
    """How much longer the context is than the one that was trained first."""
    sizes = [x for x in (longest, original) if isinstance(x, int) and not isinstance(x, bool)]
    return sizes[0] / sizes[1] if len(sizes) == 2 and sizes[1] > 0 else None


def _factors(rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
    factors = _required(rope, key, "longrope")
    if not isinstance(factors, list):
        raise ModelFileError(f"{key} must be a list of numbers, got {factors!r}")
    return tuple(factors)
