"""A decoder's forward pass in float64 NumPy, dense and without a cache: what models are tested
against.  Written from the papers' formulas, and shares no code with the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.hyperparameters import Hyperparameters

Array = NDArray[np.float64]


@dataclass
class LayerPass:
    """One layer: what each part adds to the state, the state after both, (n_tokens, d_model), and
    the attention probabilities (n_heads, n_tokens, n_tokens)."""

    from_attention: Array
    from_feed_forward: Array
    state: Array
    probs: Array


@dataclass
class ForwardPass:
    """The embedding and the last norm's output (n_tokens, d_model), and the logits."""

    embedding: Array
    layers: list[LayerPass]
    normed: Array
    logits: Array


def numpy_forward(
    config: Hyperparameters, weights: dict[str, Any], token_ids: list[int]
) -> ForwardPass:
    """One sequence from its first position on; plain rotary embeddings only."""
    assert config.rope_scaling is None and config.rope_freq_factors is None
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    x = embedding = w["token_embd"][token_ids]
    layers = []
    for i in range(config.n_layers):
        p = f"layers.{i}."
        y = rms_norm(x, w[p + "attn_norm"], config.norm_eps)
        mixed, probs = attention(config, y, w, p)
        attended = x + mixed
        y = rms_norm(attended, w[p + "ffn_norm"], config.norm_eps)
        gate = y @ w[p + "w_gate"].T
        fed = (gate / (1 + np.exp(-gate)) * (y @ w[p + "w_up"].T)) @ w[p + "w_down"].T
        x = attended + fed
        layers.append(LayerPass(mixed, fed, x, probs))
    normed = rms_norm(x, w["output_norm"], config.norm_eps)
    return ForwardPass(embedding, layers, normed, head(w, normed))


def head(w: dict[str, Any], normed: Array) -> Array:
    """Logits (n_tokens, vocab_size); the output matrix may be the embedding's."""
    return normed @ w.get("output", w["token_embd"]).astype(np.float64).T


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def attention(config: Hyperparameters, x: Array, w: dict[str, Any], p: str) -> tuple[Array, Array]:
    """(what it adds, probabilities)."""
    n, d = len(x), config.head_dim

    def heads(name: str) -> Array:
        y = x @ w[p + "w" + name].T
        if config.qkv_bias:
            y = y + w[p + "b" + name]
        return y.reshape(n, -1, d).swapaxes(0, 1)

    q, k, v = rotate(heads("q"), config), rotate(heads("k"), config), heads("v")
    group = config.n_heads // config.n_kv_heads
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    age = np.arange(n)[:, None] - np.arange(n)
    seen = (age >= 0) & (age < (config.sliding_window or n))
    scores = np.where(seen, q @ k.swapaxes(1, 2) / np.sqrt(d), -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    y = (probs @ v).swapaxes(0, 1).reshape(n, -1)
    return y @ w[p + "wo"].T, probs


def rotate(x: Array, config: Hyperparameters) -> Array:
    """Rotary embedding of (n_heads, n_tokens, head_dim), pairs half a head apart."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-np.arange(half) / half)
    angles = np.arange(x.shape[1])[:, None] * frequencies
    a, b = x[..., :half], x[..., half:]
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
