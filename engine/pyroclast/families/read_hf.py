"""From the config.json of a Hugging Face folder to Hyperparameters, by the tables of its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.checks import check_flag, check_size
from pyroclast.families.family import Family
from pyroclast.families.hf_rope import partial_rotary_factor, rope_values
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_values import (
    activation_of,
    check_flags,
    fill_head_sizes,
    find_family,
    read_token_ids,
    with_extra,
)
from pyroclast.families.registry import FAMILIES

# The text model of a model that also sees pictures: its model_type where config.json has none.
TEXT_MODELS = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
}
# What config.json of such a model says beside its text_config and means for the text model.
_OUTER_KEYS = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "quantization_config")
_MAX_HEAD_DIM = 1 << 20  # far above any published model; see layer_spec
# Fields that null switches off; any other key with null counts as left out.
_OFF_BY_NULL = ("sliding_window", "attention_softcap", "logit_softcap")
# Of layer_types: whether such a layer attends through the window, and whether it is recurrent.
_LAYER_KINDS = {"full_attention": False, "attention": False, "sliding_attention": True}
_MIXER_KINDS = {
    "full_attention": False,
    "attention": False,
    "conv": True,
    "linear_attention": True,
    "mamba": True,
}
# Of families whose files may state the layers' kinds in place of their number.
_OF_LAYERS = ("layer_kinds", "layer_pattern")


def hyperparameters_from_hf(
    config: Mapping[str, Any], generation: Mapping[str, Any]
) -> Hyperparameters:
    """What config.json's object says; generation_config.json may add end-of-text ids."""
    config = _text_config(config)
    family = _family_of(config)
    _check_options(family, config)
    values = _table_values(family, config)
    values |= rope_values(family, config, values)
    if family.hf_d_ff_ratio is not None and isinstance(values.get("d_model"), int):
        values.setdefault("d_ff", family.hf_d_ff_ratio * values["d_model"])
    for field in _OF_LAYERS:
        if isinstance(values.get(field), list | str):
            values.setdefault("n_layers", len(values[field]))
    _settle_layers(family, values)
    fill_head_sizes(values, family.hf_keys)
    values["rotary_dim"] = _rotary_dim(family, config, values["head_dim"])
    if "windowed" in values:
        values["windowed"] = _of_layers(values["windowed"], _LAYER_KINDS)
    if "recurrent" in values:
        values["recurrent"] = _of_layers(values["recurrent"], _MIXER_KINDS)
    values["activation"] = activation_of(values.get("activation", "silu"), family.hf_keys)
    check_flags(values, family.hf_keys)
    bos = read_token_ids(config.get("bos_token_id"))
    return Hyperparameters(
        family=family.name,
        **with_extra(values),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=read_token_ids(config.get("eos_token_id"), generation.get("eos_token_id")),
    )


def _settle_layers(family: Family, values: dict[str, Any]) -> None:
    """One value in place of one for each layer, where all are the same; else in `of_layers`."""
    for field in family.hf_of_layers:
        if isinstance(listed := values.get(field), list) and listed:
            if len(set(map(str, listed))) > 1:
                values["of_layers"] = values.get("of_layers", {}) | {field: tuple(listed)}
            elif len(listed) != values.get("n_layers"):
                raise ModelFileError(
                    f"{family.hf_keys[field]} has {len(listed)} values for "
                    f"{values.get('n_layers')!r} layers"
                )
            values[field] = listed[0]


def _family_of(config: Mapping[str, Any]) -> Family:
    """The family of the model_type; of several, the first whose condition the file meets."""
    found = find_family("hf_model_type", config.get("model_type"), "model_type")
    alike = [each for each in FAMILIES.values() if each.hf_model_type == found.hf_model_type]
    fits = (each for each in alike if each.hf_condition is None or each.hf_condition(config))
    return next(fits, found)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json of the text model: the whole object, or its `text_config`."""
    outer = config.get("model_type")
    if not isinstance(outer, str) or outer not in TEXT_MODELS:
        return config
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelFileError(f"text_config of {outer!r} must be an object, got {text!r}")
    around = {key: config[key] for key in _OUTER_KEYS if config.get(key) is not None}
    return {"model_type": TEXT_MODELS[outer]} | around | text


def _table_values(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Each field by its key, or by the family's default."""
    values = dict(family.hf_defaults)
    config = _with_old_names(family, config)
    for field, key in family.hf_keys.items():
        if config.get(key) is not None:
            values[field] = config[key]
        elif key in config and field in _OFF_BY_NULL:
            values[field] = None
    if family.hf_window_key is not None:
        switch = config.get(family.hf_window_key)
        switch = False if switch is None else switch
        check_flag(family.hf_window_key, switch)
        values["sliding_window"] = values.get("sliding_window") if switch else None
    return values


def _with_old_names(family: Family, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with the values of renamed keys under their old names, too."""
    found = dict(config)
    for new, old in family.hf_renamed.items():
        if config.get(new) is None:
            continue
        if config.get(old) not in (None, config[new]):
            raise ModelFileError(
                f"{old} and {new} must be the same, got {config[old]!r} and {config[new]!r}"
            )
        found[old] = config[new]
    return found


def _check_options(family: Family, config: Mapping[str, Any]) -> None:
    for key, values in family.hf_allowed.items():
        if config.get(key) is not None and config[key] not in values:
            raise UnsupportedModelError(
                f"{key} {config[key]!r} is not supported; supported: "
                + (", ".join(repr(value) for value in values) or "null")
            )
    _check_quantization(family, config.get("quantization_config"))


def _check_quantization(family: Family, quantization: object) -> None:
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if not isinstance(method, str) or method not in family.hf_quantizations:
        raise UnsupportedModelError(
            "quantization_config: weights that another tool quantized are not supported; use the "
            "original model, and `folder@q8_0` to quantize it at load"
        )


def _rotary_dim(family: Family, config: Mapping[str, Any], head_dim: object) -> int | None:
    """How many dimensions of a head rotate; None for all of them, and where the family reads the
    share by itself."""
    if "rotary_share" in family.hf_rope_keys:
        return None
    factor = partial_rotary_factor(config)
    factor = family.hf_rotary_factor if factor is None else factor
    if factor is None or (factor == 1 and factor is not True):
        return None
    if not family.hf_partial_rotary:
        raise UnsupportedModelError(
            f"partial_rotary_factor must be 1 for {family.name}, got {factor!r}"
        )
    check_size("head_dim", head_dim, _MAX_HEAD_DIM)
    assert isinstance(head_dim, int)
    if not isinstance(factor, float) or not 0 < factor < 1:
        raise ModelFileError(f"partial_rotary_factor must be a number in 0..1, got {factor!r}")
    return int(head_dim * factor)


def _of_layers(kinds: object, known: Mapping[str, bool]) -> tuple[bool, ...]:
    """What `layer_types` says of each layer."""
    if not isinstance(kinds, list):
        raise ModelFileError(f"layer_types must be a list of names, got {kinds!r}")
    unknown = sorted({str(kind) for kind in kinds} - set(known))
    if unknown:
        raise UnsupportedModelError(
            f"layers of type {' and '.join(unknown)} are not supported; supported: "
            + ", ".join(known)
        )
    return tuple(known[str(kind)] for kind in kinds)
