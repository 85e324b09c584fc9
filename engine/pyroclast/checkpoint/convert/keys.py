"""A folder's hyperparameters as the keys of a GGUF file, by the tables of its family.

What was written is read back before anything else happens: if the file would be another model, it
is refused with the first thing that GGUF has no key for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.convert.layer_keys import fields_of_layers, keys_for_llama_cpp
from pyroclast.checkpoint.drafting import with_draft_head
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.gguf_rope import FREQS, LONG, SHORT
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import AttentionSpec, NormSpec
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.rope import RopeScaling, RopeSpec, inv_freq
from pyroclast.files.gguf_metadata import Metadata
from pyroclast.files.gguf_writer import Value

Vectors = dict[str, npt.NDArray[np.float32]]

_WHOLE = frozenset(
    name for name, hint in get_type_hints(Hyperparameters).items() if hint in (int, int | None)
) | {
    "n_experts", "n_active", "d_expert", "d_shared", "n_sharing_layers", "layer_input_width",
    "whole_head_dim", "n_streams", "active_stream",
}  # fmt: skip
_WINDOWS_READ_BY_LLAMA_CPP = ("gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "olmo2")
# Of no interest to the forward pass: special tokens are the vocabulary's to say; what a file stores
# otherwise than a folder (`folder.py`, `states.py`).
_NOT_COMPARED = (
    "family", "bos_token_id", "eos_token_ids", "weight_offset", "n_stored", "log_decay", "tiled",
)  # fmt: skip


def written_family(family: Family) -> Family:
    """The family that a GGUF file of this one names: itself, or the one with the same tables."""
    for each in FAMILIES.values():
        same = (each.gguf_tensors, each.gguf_keys) == (family.gguf_tensors, family.gguf_keys)
        is_it = same if family.gguf_architecture is None else each is family
        if is_it and each.gguf_architecture is not None:
            return each
    raise UnsupportedModelError(f"no GGUF architecture is known for the family {family.name!r}")


def keys_and_vectors(h: Hyperparameters, config: ModelConfig) -> tuple[dict[str, Value], Vectors]:
    """The keys of general information, sizes and positions, and the tensors that belong to them."""
    family = written_family(FAMILIES[h.family])
    assert family.gguf_architecture is not None
    prefix = f"{family.gguf_architecture}."
    keys = {
        "general.architecture": Value("str", family.gguf_architecture),
        "general.type": Value("str", "model"),
    }
    told = fields_of_layers(family, config)
    for field, key in family.gguf_keys.items():
        value = getattr(h, field, h.extra.get(field))
        if field in told:
            keys[prefix + key] = told[field]
        elif value is not None and value != ():
            keys[prefix + key] = _value(field, value)
    keys |= {prefix + key: each for key, each in keys_for_llama_cpp(h, family, config)}
    if "head_dim" in family.gguf_keys:
        keys[f"{prefix}attention.value_length"] = Value("u32", h.head_dim)
    vectors: Vectors = {}
    attentions = config.attentions.values()
    if any(attention.rope is not None for attention in attentions):
        keys[f"{prefix}rope.dimension_count"] = Value("u32", h.rope.rotated(h.head_dim))
        for key, number in _scaling_keys(h.rope_scaling):
            keys[f"{prefix}rope.scaling.{key}"] = number
        vectors = _rope_vectors(h)
    if "whole_head_dim" in family.gguf_keys:
        keys |= {prefix + key: value for key, value in _keys_of_layers(config)}
        vectors = _divisors(config)
    elif family.gguf_of_layers:
        keys |= {prefix + key: value for key, value in _keys_of_sparse_layers(config)}
    return keys, vectors


def _keys_of_layers(config: ModelConfig) -> Iterator[tuple[str, Value]]:
    """What differs between layers, in a family whose layers with a window have heads of their own
    size."""
    attentions = list(config.attentions.values())
    heads = [attention.n_kv_heads for attention in attentions]
    yield "attention.head_count_kv", Value("[u32]", heads)
    widths = [0 if spec.ffn is None else spec.ffn.dense_d_ff for spec in config.layers]
    yield "feed_forward_length", Value("[u32]", widths)
    windowed = [attention.window is not None for attention in attentions]
    yield "attention.sliding_window_pattern", Value("[bool]", windowed)
    for is_windowed, suffix in ((False, ""), (True, "_swa")):
        for attention in attentions:
            if (attention.window is not None) == is_windowed:
                for key in ("attention.key_length", "attention.value_length"):
                    yield key + suffix, Value("u32", attention.head_dim)
                yield f"rope.dimension_count{suffix}", Value("u32", attention.head_dim)
                break
    given = config.layer_input
    yield "embedding_length_per_layer_input", Value("u32", 0 if given is None else given.width)


def _keys_of_sparse_layers(config: ModelConfig) -> Iterator[tuple[str, Value]]:
    """What differs between layers, in a family some of whose layers have sparse gates."""
    ffns = [spec.ffn for spec in config.layers if spec.ffn is not None]
    yield "feed_forward_length", Value("[u32]", [ffn.d_ff for ffn in ffns])
    windowed = [attention.window is not None for attention in config.attentions.values()]
    yield "attention.sliding_window_pattern", Value("[bool]", windowed)
    deviations = [-math.inf if ffn.sparsity is None else ffn.sparsity for ffn in ffns]
    yield "activation_sparsity_scale", Value("[f32]", deviations)


def _divisors(config: ModelConfig) -> Vectors:
    """Of the frequencies of the layers that see everything."""
    for attention in config.attentions.values():
        if attention.window is None and attention.rope is not None:
            factors = attention.rope.freq_factors or (1.0,) * (attention.head_dim // 2)
            return {FREQS: np.array(factors, np.float32)}
    return {}


def _value(field: str, value: Any) -> Value:
    if isinstance(value, bool):
        return Value("bool", value)
    if isinstance(value, tuple | list):
        return Value("[bool]", list(value))
    if field in _WHOLE:
        return Value("u32", value)
    return _number(value)


def _number(value: float) -> Value:
    return Value("f32", float(np.float32(value)))


def _scaling_keys(scaling: RopeScaling | None) -> Iterator[tuple[str, Value]]:
    if scaling is None or scaling.kind not in ("linear", "yarn", "longrope"):
        return
    if scaling.kind != "longrope":
        yield "type", Value("str", scaling.kind)
        yield "factor", _number(scaling.factor)
    if scaling.kind == "linear":
        return
    yield "original_context_length", Value("u32", scaling.original_max_seq_len)
    if scaling.kind == "longrope":
        yield "attn_factor", _number(scaling.amplitude)
        return
    yield "yarn_beta_fast", _number(scaling.beta_fast)
    yield "yarn_beta_slow", _number(scaling.beta_slow)
    if scaling.mscale and scaling.mscale_all_dim:
        yield "yarn_log_multiplier", _number(scaling.mscale_all_dim)
        return
    usual = 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0
    if not math.isclose(scaling.amplitude, usual, rel_tol=1e-6):
        yield "attn_factor", _number(scaling.amplitude / usual)


def _rope_vectors(h: Hyperparameters) -> Vectors:
    """Tensors that stretch the frequencies where no key can."""
    scaling = h.rope_scaling
    if scaling is not None and scaling.kind == "longrope":
        return {
            LONG: np.array(scaling.long_factors, np.float32),
            SHORT: np.array(scaling.short_factors, np.float32),
        }
    if scaling is not None and scaling.kind == "llama3":
        plain = RopeSpec(h.rope_theta, rotary_dim=h.rotary_dim)
        ratio = inv_freq(plain, h.head_dim).astype(np.float64) / inv_freq(h.rope, h.head_dim)
        return {FREQS: ratio.astype(np.float32)}
    return {}


def read_back(keys: Mapping[str, Value], tensors: frozenset[str], vectors: Vectors) -> ModelConfig:
    """What a reader makes of a file with these keys, and tensors of these names."""
    values = {key: each.value for key, each in keys.items()}
    found = {name: tuple(vector.tolist()) for name, vector in vectors.items()}
    try:
        h = hyperparameters_from_gguf(Metadata(values), tensors=tensors, vectors=found)
        return config_of(with_draft_head(h, tensors))
    except ModelFileError as error:
        raise UnsupportedModelError(
            f"a GGUF file of architecture {values['general.architecture']!r} has no way to say "
            f"what this model is: {error}; use the folder itself"
        ) from error


def check_same(wanted: ModelConfig, found: ModelConfig, architecture: str) -> None:
    """UnsupportedModelError unless both are the same forward pass."""
    for where, want, got in _differences(wanted, found, "", wanted):
        raise UnsupportedModelError(
            f"a GGUF file of architecture {architecture!r} has no way to say that {where} is "
            f"{want!r} (it would be read as {got!r}); use the folder itself"
        )


def _differences(a: Any, b: Any, where: str, config: ModelConfig) -> Iterator[tuple[str, Any, Any]]:
    """(name, a's value, b's value) of what differs, in order."""
    if (
        isinstance(a, AttentionSpec)
        and isinstance(b, AttentionSpec)
        and not _same_rope(a.rope, b.rope, a.head_dim, config.max_seq_len)
    ):
        yield f"{where}.rope", a.rope, b.rope
    if isinstance(a, RopeSpec | None) and where.endswith(".rope"):
        return
    if is_dataclass(a) and type(a) is type(b):
        for each in fields(a):
            if each.name not in _NOT_COMPARED:
                pair = getattr(a, each.name), getattr(b, each.name)
                yield from _differences(*pair, f"{where}.{each.name}".lstrip("."), config)
    elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        for i, pair in enumerate(zip(a, b, strict=True)):
            yield from _differences(*pair, f"{where}[{i}]", config)
    elif isinstance(a, float) and isinstance(b, int | float):
        if not math.isclose(a, b, rel_tol=1e-6):
            yield where, a, b
    elif a != b:
        yield where, a, b


def _same_rope(a: RopeSpec | None, b: RopeSpec | None, head_dim: int, max_seq_len: int) -> bool:
    """Whether both rotate alike, however they say it."""
    if a is None or b is None:
        return a is b
    for longest in (0, max_seq_len):
        pair = inv_freq(a, head_dim, longest), inv_freq(b, head_dim, longest)
        if pair[0].shape != pair[1].shape or not np.allclose(*pair, rtol=1e-5, atol=0):
            return False
    return math.isclose(a.amplitude, b.amplitude, rel_tol=1e-5)


def notes_of(config: ModelConfig, architecture: str, tensors: Collection[str]) -> list[str]:
    """Where llama.cpp reads such a file, with tensors of these names, otherwise than Pyroclast."""
    sharing = [i for i in config.attentions if i not in config.caches]
    if config.streams is not None and any(f"blk.{i}.attn_k.weight" not in tensors for i in sharing):
        note = (
            f"llama.cpp refuses files of architecture {architecture!r} without the keys and values "
            "of layers that read another's cache, which nothing reads and the folder leaves out"
        )
        return [note]
    windows = {attention.window for attention in config.attentions.values()} - {None}
    shorter = [window for window in windows if window is not None and window < config.max_seq_len]
    if not shorter or architecture in _WINDOWS_READ_BY_LLAMA_CPP:
        return []
    note = (
        f"llama.cpp ignores the attention window of {min(shorter)} positions in files of "
        f"architecture {architecture!r}: on longer texts it computes something else"
    )
    return [note]


def norm_of(config: ModelConfig, layer: int | None, weight: str) -> NormSpec | None:
    """The spec of the norm whose weights a tensor holds; None if it holds none."""
    if "norm" not in weight or weight.endswith("bias"):
        return None
    if layer is None:
        return config.output_norm
    spec = config.all_layers[layer]
    return spec.attention.qk_norm if weight in ("q_norm", "k_norm") else spec.norm
