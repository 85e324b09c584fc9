"""A family that nobody published, whose layers differ in all that a LayerSpec may vary today, and
its forward pass in plain NumPy, which knows nothing of Pyroclast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from pyroclast.families.rope import RopeSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerOf:
    """One layer; theta 0 rotates nothing, "local" takes what the file has under a key of ours."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    window: int | None
    theta: float | str
    activation: str = "silu"
    has_bias: bool = False
    norm_offset: float = 0.0


LOCAL_THETA = 300.0
LAYERS = (
    LayerOf(6, 2, 16, 160, 24, "local"),
    LayerOf(3, 1, 32, 96, None, 1e6, has_bias=True),
    LayerOf(6, 6, 16, 128, 40, 0.0, norm_offset=1.0),
    LayerOf(4, 2, 16, 160, None, "local"),
)


def theta_of(layer: LayerOf) -> float:
    return LOCAL_THETA if isinstance(layer.theta, str) else layer.theta


def spec_of(layer: LayerOf, h: Hyperparameters) -> LayerSpec:
    local = RopeSpec(h.extra["local_rope_theta"])
    rope = local if isinstance(layer.theta, str) else RopeSpec(layer.theta) if layer.theta else None
    attention = AttentionSpec(
        layer.n_heads,
        layer.n_kv_heads,
        layer.head_dim,
        rope,
        window=layer.window,
        qkv_bias=layer.has_bias,
        o_bias=layer.has_bias,
    )
    ffn = FeedForwardSpec(layer.d_ff, layer.activation, bias=layer.has_bias)
    return LayerSpec(attention, ffn, NormSpec(h.norm_eps, weight_offset=layer.norm_offset))


def config(h: Hyperparameters) -> ModelConfig:
    return h.config(tuple(spec_of(layer, h) for layer in LAYERS))


FAMILY: Family = replace(
    llama.FAMILY,
    name="made-up",
    config=config,
    hf_model_type="made_up",
    gguf_architecture="made-up",
    gguf_paired=frozenset(),
    hf_keys={**llama.HF_KEYS, "local_rope_theta": "rope_local_base_freq"},
    gguf_keys={**llama.GGUF_KEYS, "local_rope_theta": "rope.local.freq_base"},
)


# ---- the forward pass ----------------------------------------------------------------------


def _gelu_tanh(x: Floats) -> Floats:
    y: Floats = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": _gelu_tanh,
}


def _norm(x: Floats, weight: Floats, eps: float) -> Floats:
    y: Floats = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight
    return y


def _rotated(x: Floats, theta: float) -> Floats:
    """x (n_tokens, heads, head_dim) at positions 0, 1, ...: pairs (i, i + head_dim / 2)."""
    n_tokens, _, head_dim = x.shape
    if not theta:
        return x
    rates = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = np.exp(1j * np.arange(n_tokens)[:, None] * rates)[:, None]
    y = (x[..., : head_dim // 2] + 1j * x[..., head_dim // 2 :]) * turns
    return np.concatenate([y.real, y.imag], axis=-1)


def _attention(x: Floats, w: Mapping[str, Floats], layer: LayerOf) -> Floats:
    n_tokens, head_dim = len(x), layer.head_dim

    def heads(name: str) -> Floats:
        y = x @ w["w" + name].T + w.get("b" + name, 0.0)
        return y.reshape(n_tokens, -1, head_dim)

    q, k = (_rotated(heads(name), theta_of(layer)) for name in "qk")
    copies = layer.n_heads // layer.n_kv_heads
    k, v = (np.repeat(each, copies, axis=1) for each in (k, heads("v")))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim)
    behind = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
    seen = (behind >= 0) & (behind < (layer.window or n_tokens))
    scores = np.where(seen, scores, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    y = np.einsum("hqk,khd->qhd", probs, v).reshape(n_tokens, -1)
    out: Floats = y @ w["wo"].T + w.get("bo", 0.0)
    return out


def _ffn(x: Floats, w: Mapping[str, Floats], layer: LayerOf) -> Floats:
    gate, up = (x @ w["w_" + name].T + w.get("b_" + name, 0.0) for name in ("gate", "up"))
    hidden = _ACTIVATIONS[layer.activation](gate) * up
    out: Floats = hidden @ w["w_down"].T + w.get("b_down", 0.0)
    return out


def forward(weights: Mapping[str, NDArray[np.float32]], token_ids: list[int], eps: float) -> Floats:
    """Logits (n_tokens, vocab_size) in float64."""
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    x = wide["token_embd"][token_ids]
    for i, layer in enumerate(LAYERS):
        prefix = f"layers.{i}."
        w = {k.removeprefix(prefix): v for k, v in wide.items() if k.startswith(prefix)}
        x = x + _attention(_norm(x, w["attn_norm"] + layer.norm_offset, eps), w, layer)
        x = x + _ffn(_norm(x, w["ffn_norm"] + layer.norm_offset, eps), w, layer)
    return _norm(x, wide["output_norm"], eps) @ wide["output"].T
