"""Qwen2, Qwen2.5 and Qwen3: Llama with a window that has to be switched on.  Qwen2 has biases on
q, k and v; Qwen3 norms each head of q and k, and states head_dim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pyroclast.errors import ModelFileError
from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import NormSpec


def _windows(h: Hyperparameters) -> Iterator[int | None]:
    """Of each layer.  Where the file has no list of layers, the first max_window_layers see
    everything (yes, those)."""
    first = h.extra.get("max_window_layers", 28)
    if not isinstance(first, int) or isinstance(first, bool):
        raise ModelFileError(f"max_window_layers must be a whole number, got {first!r}")
    for i in range(h.n_layers):
        yield h.window_of(i) if h.windowed is not None or i >= first else None


def qwen2_config(h: Hyperparameters) -> ModelConfig:
    """Llama's layers with those windows."""
    return h.config(llama.layer(h, i, window=window) for i, window in enumerate(_windows(h)))


def qwen3_config(h: Hyperparameters) -> ModelConfig:
    """The same with norms of q and k."""
    norm = NormSpec(h.norm_eps)
    return h.config(
        llama.layer(h, i, window=window, qk_norm=norm) for i, window in enumerate(_windows(h))
    )


QWEN2 = replace(
    llama.FAMILY,
    name="qwen2",
    config=qwen2_config,
    hf_model_type="qwen2",
    gguf_architecture="qwen2",
    gguf_paired=frozenset(),
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if not field.endswith("bias")},
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "max_window_layers": "max_window_layers",
    },
    # GGUF files have no word on windows, and llama.cpp knows none here.
    gguf_keys={field: key for field, key in llama.GGUF_KEYS.items() if field != "sliding_window"},
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_kv_heads": 32,
        "max_seq_len": 32768,
        "qkv_bias": True,
        "sliding_window": 4096,
    },
    hf_window_key="use_sliding_window",
)

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    config=qwen3_config,
    hf_model_type="qwen3",
    gguf_architecture="qwen3",
    hf_tensors=llama.HF_TENSORS
    | {
        "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
        "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
    },
    gguf_tensors=llama.GGUF_TENSORS
    | {
        "layers.{i}.q_norm": "blk.{i}.attn_q_norm.weight",
        "layers.{i}.k_norm": "blk.{i}.attn_k_norm.weight",
    },
    hf_keys={**QWEN2.hf_keys, "qkv_bias": "attention_bias", "o_bias": "attention_bias"},
    hf_defaults={**QWEN2.hf_defaults, "head_dim": 128, "qkv_bias": False},
)
