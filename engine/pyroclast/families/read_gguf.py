"""From a GGUF file's metadata to Hyperparameters, by the tables of its family."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.checks import check_size
from pyroclast.families.family import Family
from pyroclast.families.gguf_rope import FREQS, rope_scaling
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_values import (
    fill_head_sizes,
    find_family,
    read_token_ids,
    with_extra,
)
from pyroclast.families.registry import FAMILIES
from pyroclast.files.gguf_metadata import Metadata

# Any of these ids ends a turn.
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# A file may have one value for each layer; they must be equal, but where the family says otherwise.
_PER_LAYER = ("n_heads", "n_kv_heads", "d_ff")
_KEYS, _VALUES = (re.compile(rf"blk\.(\d{{1,9}})\.attn_{each}\.weight") for each in "kv")
_DENSE = re.compile(r"blk\.(\d{1,9})\.ffn_gate\.weight")
# The tensor, of the first layer, that tells whether a product has a bias.
_BIASES = {
    "qkv_bias": ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias"),
    "o_bias": ("blk.0.attn_output.bias",),
    "ffn_bias": ("blk.0.ffn_down.bias",),
}


def hyperparameters_from_gguf(
    metadata: Metadata, *, tensors: Collection[str], vectors: Mapping[str, tuple[float, ...]]
) -> Hyperparameters:
    """What a GGUF file's metadata says, with what only its tensors tell: their names, and the
    values of those in `gguf_rope.ROPE_TENSORS`."""
    architecture = metadata.get("general.architecture")
    family = find_family("gguf_architecture", architecture, "architecture")
    prefix = f"{architecture}."
    keys = {field: prefix + key for field, key in family.gguf_keys.items()}
    found = {field: metadata[key] for field, key in keys.items() if key in metadata}
    values = {"rope_theta": 10000.0, **family.gguf_defaults, **found}
    _check_options(family, metadata, prefix)
    n_tokens = metadata.length("tokenizer.ggml.tokens")
    if "vocab_size" not in values and n_tokens is not None:
        values["vocab_size"] = n_tokens
    _settle_layers(family, keys, values)
    fill_head_sizes(values, keys)
    values["rotary_dim"] = _rotary_dim(metadata, prefix, values)
    values |= _told_by_tensors(family, tensors)
    window = values.get("sliding_window")
    if window == 0 and window is not False:
        values["sliding_window"] = None
    if "windowed" in values:
        values["windowed"] = _windowed(keys["windowed"], values["windowed"], values["n_layers"])
    if "n_experts" in family.gguf_keys:
        values["dense_layers"] = _dense_layers(tensors, keys, values)
    for field, names in _BIASES.items():
        values.setdefault(field, any(name in tensors for name in names))
    bos = read_token_ids(metadata.get("tokenizer.ggml.bos_token_id"))
    eos = [metadata.get(f"tokenizer.ggml.{key}") for key in _EOS_KEYS]
    return Hyperparameters(
        family=family.name,
        **with_extra(values),
        tie_embeddings="output.weight" not in tensors,
        rope_scaling=rope_scaling(metadata, prefix, vectors, values["max_seq_len"]),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=read_token_ids(*eos),
        rope_freq_factors=vectors.get(FREQS),
    )


def _told_by_tensors(family: Family, tensors: Collection[str]) -> dict[str, Any]:
    """Fields that no key tells, but the presence of tensors."""
    found: dict[str, Any] = {}
    if "keys_are_values" in family.hf_keys:
        found["keys_are_values"] = bool(_layers_of(_KEYS, tensors) - _layers_of(_VALUES, tensors))
    if "n_ssm_heads" in family.gguf_keys:
        found["conv_bias"] = any(name.endswith(".ssm_conv1d.bias") for name in tensors)
    return found


def _check_options(family: Family, metadata: Metadata, prefix: str) -> None:
    n_experts = metadata.get(prefix + "expert_count", 0)
    if n_experts and "n_experts" not in family.gguf_keys:
        with_experts = [name for name, each in FAMILIES.items() if "n_experts" in each.gguf_keys]
        raise UnsupportedModelError(
            f"{prefix}expert_count is {n_experts!r}: experts are not supported in this family; "
            f"those with experts are {', '.join(with_experts)}"
        )


def _dense_layers(
    tensors: Collection[str], keys: Mapping[str, str], values: Mapping[str, Any]
) -> list[int]:
    """The layers that have a feed-forward for all tokens, which no key tells; ModelFileError if
    none tells how many experts the others have."""
    for field in ("n_experts", "n_active"):
        if field not in values:
            raise ModelFileError(f"{keys[field]!r} is missing")
    return sorted(_layers_of(_DENSE, tensors))


def _layers_of(pattern: re.Pattern[str], tensors: Collection[str]) -> set[int]:
    """The layers that have such a tensor."""
    found = (pattern.fullmatch(name) for name in tensors)
    return {int(each[1]) for each in found if each is not None}


def _rotary_dim(metadata: Metadata, prefix: str, values: Mapping[str, Any]) -> int | None:
    """How many dimensions of a head rotate; None for all of them.  Where heads differ in size,
    it counts those of layers that see everything."""
    head_dim = values.get("whole_head_dim", values["head_dim"])
    size = metadata.get(prefix + "attention.value_length", head_dim)
    if size != head_dim:
        raise UnsupportedModelError(
            f"{prefix}attention.value_length must equal the head size {head_dim}, got {size!r}"
        )
    rotary_dim = metadata.get(prefix + "rope.dimension_count", head_dim)
    if rotary_dim == head_dim:
        return None
    if not isinstance(rotary_dim, int) or isinstance(rotary_dim, bool) or rotary_dim < 1:
        raise ModelFileError(
            f"{prefix}rope.dimension_count must be a whole number in 1..{head_dim}, "
            f"got {rotary_dim!r}"
        )
    return rotary_dim


def _settle_layers(family: Family, keys: Mapping[str, str], values: dict[str, Any]) -> None:
    """One value in place of one for each layer, and which layers are recurrent: a list says so, or
    they have no heads of keys.  The layers that predict further tokens come last, and are none."""
    n_layers, n_drafting = values.get("n_layers"), values.get("n_draft_layers", 0)
    if isinstance(n_layers, int) and (type(n_drafting) is not int or n_drafting):
        check_size(keys["n_draft_layers"], n_drafting, n_layers)
        values["n_layers"] = n_layers - n_drafting
    if "recurrent" in values:
        values["recurrent"] = _flags(keys["recurrent"], values["recurrent"])[: values["n_layers"]]
    heads = values.get("n_kv_heads")
    if family.is_recurrent and isinstance(heads, list):
        values["recurrent"] = tuple(each == 0 for each in heads)
        values["n_kv_heads"] = [each for each in heads if each != 0]
    widths = values.get("d_ff")
    if family.parts_alone and isinstance(widths, list):
        values["ffn_alone"] = tuple(each != 0 for each in widths)
        values["d_ff"] = [each for each in widths if each != 0]
    for field in _PER_LAYER:
        if not isinstance(values.get(field), list):
            continue
        if field in family.gguf_of_layers and len(set(map(str, values[field]))) > 1:
            values["of_layers"] = values.get("of_layers", {}) | {field: tuple(values[field])}
            values[field] = values[field][0]
        else:
            values[field] = _the_same_in_all_layers(keys[field], values[field])


def _flags(key: str, listed: Any) -> tuple[bool, ...]:
    if not isinstance(listed, list) or any(type(each) is not bool for each in listed):
        raise ModelFileError(f"{key} must be a list of truth values, got {listed!r:.100}")
    return tuple(listed)


def _the_same_in_all_layers(key: str, sizes: list[Any]) -> Any:
    """The one value of a list that has one for each layer."""
    if not sizes or any(size != sizes[0] for size in sizes):
        raise UnsupportedModelError(f"{key} must be the same in all layers, got {sizes!r}")
    return sizes[0]


def _windowed(key: str, pattern: Any, n_layers: Any) -> tuple[bool, ...]:
    """Which layers attend through the window: a truth value of each, or a period: the last
    layer of each period sees everything; 0: no layer does."""
    if isinstance(pattern, list) and all(each in (0, 1) for each in pattern):
        return tuple(map(bool, pattern))
    if not isinstance(pattern, int) or isinstance(pattern, bool) or pattern < 0:
        raise ModelFileError(
            f"{key} must be a whole number or a truth value for each layer, got {pattern!r}"
        )
    if not isinstance(n_layers, int) or not 0 <= n_layers <= 4096:
        return ()  # Hyperparameters names what is wrong with the number of layers
    return tuple(pattern == 0 or (i + 1) % pattern != 0 for i in range(n_layers))
