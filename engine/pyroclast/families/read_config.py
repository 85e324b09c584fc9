"""From a file's own words to Hyperparameters: config.json, or a GGUF file's metadata.

Both readers go by the tables of the family.  What a file asks for and Pyroclast does not do
(another architecture, rope scaling or activation, experts) is an UnsupportedModelError; a value of
the wrong kind is a ModelFileError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES
from pyroclast.families.rope import RopeScaling
from pyroclast.files.gguf_metadata import Metadata

# End-of-text ids in GGUF metadata: any of them ends a turn.
_GGUF_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_FIELDS = frozenset(each.name for each in fields(Hyperparameters))


def hyperparameters_from_gguf(
    metadata: Metadata,
    *,
    has_output: bool,
    has_qkv_bias: bool,
    rope_freq_factors: tuple[float, ...] | None,
) -> Hyperparameters:
    """What a GGUF file's metadata says, with what only its tensors tell."""
    architecture = metadata.get("general.architecture")
    family = _family("gguf_architecture", architecture, "architecture")
    prefix = f"{architecture}."
    keys = {field: prefix + key for field, key in family.gguf_keys.items()}
    values = {field: metadata[key] for field, key in keys.items() if key in metadata}
    _check_gguf_options(metadata, prefix)
    n_tokens = metadata.length("tokenizer.ggml.tokens")
    if "vocab_size" not in values and n_tokens is not None:
        values["vocab_size"] = n_tokens
    values.setdefault("rope_theta", 10000.0)
    _fill_head_sizes(values, keys)
    _check_gguf_head_sizes(metadata, prefix, values["head_dim"])
    bos = _token_ids(metadata.get("tokenizer.ggml.bos_token_id"))
    eos = [metadata.get(f"tokenizer.ggml.{key}") for key in _GGUF_EOS_KEYS]
    return Hyperparameters(
        family=family.name,
        **_with_extra(values),
        tie_embeddings=not has_output,
        qkv_bias=has_qkv_bias,
        rope_scaling=_gguf_rope_scaling(metadata, prefix),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=_token_ids(*eos),
        rope_freq_factors=rope_freq_factors,
    )


def hyperparameters_from_hf(
    config: Mapping[str, Any], generation: Mapping[str, Any]
) -> Hyperparameters:
    """What config.json's object says; generation_config.json may add end-of-text ids."""
    family = _family("hf_model_type", config.get("model_type"), "model_type")
    _check_hf_options(family, config)
    rope = _hf_rope(config)
    values = {
        field: config[key] for field, key in family.hf_keys.items() if config.get(key) is not None
    }
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    values = {**family.hf_defaults, **values}
    if "sliding_window" in config and config["sliding_window"] is None:
        values["sliding_window"] = None
    _fill_head_sizes(values, family.hf_keys)
    if not _hf_window_is_on(family, config, values["n_layers"]):
        values["sliding_window"] = None
    for field in ("tie_embeddings", "qkv_bias"):
        if not isinstance(values[field], bool):
            raise ModelFileError(
                f"{family.hf_keys[field]} must be true or false, got {values[field]!r}"
            )
    bos = _token_ids(config.get("bos_token_id"))
    return Hyperparameters(
        family=family.name,
        **_with_extra(values),
        rope_scaling=_hf_rope_scaling(rope),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=_token_ids(config.get("eos_token_id"), generation.get("eos_token_id")),
    )


def _with_extra(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters' arguments: what is no field of theirs goes into `extra`."""
    extra = {name: value for name, value in values.items() if name not in _FIELDS}
    return {name: value for name, value in values.items() if name in _FIELDS} | {"extra": extra}


def _family(table_field: str, name: object, what: str) -> Family:
    known = {getattr(family, table_field): family for family in FAMILIES.values()}
    known.pop(None, None)
    if not isinstance(name, str) or name not in known:
        raise UnsupportedModelError(
            f"{what} {name!r} is not supported; supported: {', '.join(sorted(known))}"
        )
    return known[name]


def _fill_head_sizes(values: dict[str, Any], keys: Mapping[str, str]) -> None:
    """Check that the sizes which have no default are there, and fill in those that follow."""
    required = ("n_layers", "n_heads", "d_model", "d_ff", "vocab_size", "max_seq_len", "norm_eps")
    for field in required:
        if field not in values:
            raise ModelFileError(f"{keys[field]!r} is missing")
    values.setdefault("n_kv_heads", values["n_heads"])
    if "head_dim" not in values:
        n_heads, d_model = values["n_heads"], values["d_model"]
        for field in ("n_heads", "d_model"):
            size = values[field]
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ModelFileError(f"{keys[field]!r} must be a whole number >= 1, got {size!r}")
        if d_model % n_heads:
            raise ModelFileError(
                f"{keys['d_model']!r} must be a multiple of {keys['n_heads']!r} = {n_heads}, "
                f"got {d_model}"
            )
        values["head_dim"] = d_model // n_heads


def _token_ids(*values: object) -> tuple[int, ...]:
    """Each value is one id, a list of ids, or None for none; repeats count once."""
    ids: dict[int, None] = {}
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                ids[item] = None
            elif item is not None:
                raise ModelFileError(f"a token id must be a whole number, got {item!r}")
    return tuple(ids)


def _check_gguf_options(metadata: Metadata, prefix: str) -> None:
    n_experts = metadata.get(prefix + "expert_count", 0)
    if n_experts:
        raise UnsupportedModelError(
            f"{prefix}expert_count is {n_experts!r}: mixtures of experts are not supported"
        )


def _check_gguf_head_sizes(metadata: Metadata, prefix: str, head_dim: object) -> None:
    for key in ("rope.dimension_count", "attention.value_length"):
        size = metadata.get(prefix + key, head_dim)
        if size != head_dim:
            raise UnsupportedModelError(
                f"{prefix}{key} must equal the head size {head_dim}, got {size!r}"
            )


def _gguf_rope_scaling(metadata: Metadata, prefix: str) -> RopeScaling | None:
    kind = metadata.get(prefix + "rope.scaling.type", "none")
    legacy_factor = metadata.get(prefix + "rope.scale_linear")
    if legacy_factor is not None and kind == "none":
        return _linear(legacy_factor)
    if kind == "linear":
        return _linear(metadata.get(prefix + "rope.scaling.factor", 1.0))
    if kind != "none":
        raise UnsupportedModelError(
            f"{prefix}rope.scaling.type {kind!r} is not supported; supported: none, linear "
            "(and Llama 3's, as the tensor rope_freqs.weight)"
        )
    return None


def _linear(factor: Any) -> RopeScaling | None:
    return None if factor == 1 else RopeScaling("linear", factor)


def _check_hf_options(family: Family, config: Mapping[str, Any]) -> None:
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


def _hf_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters: `rope_parameters` since transformers 5, `rope_scaling` before."""
    rope = config.get("rope_parameters")
    if rope is None:
        rope = config.get("rope_scaling")
    if rope is None:
        return {}
    if not isinstance(rope, dict):
        raise ModelFileError(f"rope_scaling must be an object, got {rope!r}")
    return rope


def _hf_rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
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


def _hf_window_is_on(family: Family, config: Mapping[str, Any], n_layers: object) -> bool:
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
