"""From the config.json of a Hugging Face folder to Hyperparameters, by the tables of its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_values import (
    fill_head_sizes,
    find_family,
    read_token_ids,
    with_extra,
)
from pyroclast.families.rope import RopeScaling


def hyperparameters_from_hf(
    config: Mapping[str, Any], generation: Mapping[str, Any]
) -> Hyperparameters:
    """What config.json's object says; generation_config.json may add end-of-text ids."""
    family = find_family("hf_model_type", config.get("model_type"), "model_type")
    _check_options(family, config)
    rope = _rope_parameters(config)
    values = {
        field: config[key] for field, key in family.hf_keys.items() if config.get(key) is not None
    }
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    values = {**family.hf_defaults, **values}
    if "sliding_window" in config and config["sliding_window"] is None:
        values["sliding_window"] = None
    fill_head_sizes(values, family.hf_keys)
    if not _window_is_on(family, config, values["n_layers"]):
        values["sliding_window"] = None
    for field in ("tie_embeddings", "qkv_bias"):
        if not isinstance(values[field], bool):
            raise ModelFileError(
                f"{family.hf_keys[field]} must be true or false, got {values[field]!r}"
            )
    bos = read_token_ids(config.get("bos_token_id"))
    return Hyperparameters(
        family=family.name,
        **with_extra(values),
        rope_scaling=_rope_scaling(rope),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=read_token_ids(config.get("eos_token_id"), generation.get("eos_token_id")),
    )


def _check_options(family: Family, config: Mapping[str, Any]) -> None:
    for key, values in family.hf_allowed.items():
        if config.get(key) is not None and config[key] not in values:
            raise UnsupportedModelError(
                f"{key} {config[key]!r} is not supported; supported: "
                + ", ".join(repr(value) for value in values)
            )
    partial = config.get("partial_rotary_factor")
    if partial is not None and partial != 1:
        raise UnsupportedModelError(f"partial_rotary_factor must be 1, got {partial!r}")
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            "quantization_config: weights that another tool quantized are not supported; use the "
            "original model, and `folder@q8_0` to quantize it at load"
        )


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters: `rope_parameters` since transformers 5, `rope_scaling` before."""
    rope = config.get("rope_parameters")
    if rope is None:
        rope = config.get("rope_scaling")
    if rope is None:
        return {}
    if not isinstance(rope, dict):
        raise ModelFileError(f"rope_scaling must be an object, got {rope!r}")
    return rope


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    keys = {
        "linear": {"factor": "factor"},
        "llama3": {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_max_seq_len": "original_max_position_embeddings",
        },
    }
    if not isinstance(kind, str) or kind not in keys:
        raise UnsupportedModelError(
            f"rope type {kind!r} is not supported; supported: default, linear, llama3"
        )
    for key in keys[kind].values():
        if key not in rope:
            raise ModelFileError(f"{key!r} is missing in the {kind} rope scaling")
    return RopeScaling(kind, **{field: rope[key] for field, key in keys[kind].items()})  # type: ignore[arg-type]


def _window_is_on(family: Family, config: Mapping[str, Any], n_layers: object) -> bool:
    """Whether all layers attend through the sliding window; a mixture is not supported."""
    if family.hf_window_key is not None and not config.get(family.hf_window_key, False):
        return False
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list):
        kinds = set(map(str, layer_types))
    elif family.hf_window_key is not None:
        first = config.get("max_window_layers", 28)
        if not isinstance(first, int) or not isinstance(n_layers, int):
            raise ModelFileError(f"max_window_layers must be a whole number, got {first!r}")
        kinds = {"sliding_attention"} if first <= 0 else {"full_attention"}
        if 0 < first < n_layers:
            kinds.add("sliding_attention")
    else:
        return True
    if kinds not in ({"full_attention"}, {"sliding_attention"}):
        raise UnsupportedModelError(
            f"layers with {' and '.join(sorted(kinds))} are not supported; supported: "
            "full_attention or sliding_attention, the same in every layer"
        )
    return kinds == {"sliding_attention"}
