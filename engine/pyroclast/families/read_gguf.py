"""From a GGUF file's metadata to Hyperparameters, by the tables of its family."""

from __future__ import annotations

from typing import Any

from pyroclast.errors import UnsupportedModelError
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_values import (
    fill_head_sizes,
    find_family,
    read_token_ids,
    with_extra,
)
from pyroclast.families.rope import RopeScaling
from pyroclast.files.gguf_metadata import Metadata

# Any of these ids ends a turn.
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def hyperparameters_from_gguf(
    metadata: Metadata,
    *,
    has_output: bool,
    has_qkv_bias: bool,
    rope_freq_factors: tuple[float, ...] | None,
) -> Hyperparameters:
    """What a GGUF file's metadata says, with what only its tensors tell."""
    architecture = metadata.get("general.architecture")
    family = find_family("gguf_architecture", architecture, "architecture")
    prefix = f"{architecture}."
    keys = {field: prefix + key for field, key in family.gguf_keys.items()}
    values = {field: metadata[key] for field, key in keys.items() if key in metadata}
    _check_options(metadata, prefix)
    n_tokens = metadata.length("tokenizer.ggml.tokens")
    if "vocab_size" not in values and n_tokens is not None:
        values["vocab_size"] = n_tokens
    values.setdefault("rope_theta", 10000.0)
    fill_head_sizes(values, keys)
    _check_head_sizes(metadata, prefix, values["head_dim"])
    bos = read_token_ids(metadata.get("tokenizer.ggml.bos_token_id"))
    eos = [metadata.get(f"tokenizer.ggml.{key}") for key in _EOS_KEYS]
    return Hyperparameters(
        family=family.name,
        **with_extra(values),
        tie_embeddings=not has_output,
        qkv_bias=has_qkv_bias,
        rope_scaling=_rope_scaling(metadata, prefix),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=read_token_ids(*eos),
        rope_freq_factors=rope_freq_factors,
    )


def _check_options(metadata: Metadata, prefix: str) -> None:
    n_experts = metadata.get(prefix + "expert_count", 0)
    if n_experts:
        raise UnsupportedModelError(
            f"{prefix}expert_count is {n_experts!r}: mixtures of experts are not supported"
        )


def _check_head_sizes(metadata: Metadata, prefix: str, head_dim: object) -> None:
    for key in ("rope.dimension_count", "attention.value_length"):
        size = metadata.get(prefix + key, head_dim)
        if size != head_dim:
            raise UnsupportedModelError(
                f"{prefix}{key} must equal the head size {head_dim}, got {size!r}"
            )


def _rope_scaling(metadata: Metadata, prefix: str) -> RopeScaling | None:
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
