"""The forward pass of the made-up models in plain NumPy, which knows nothing of Pyroclast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_up import BASE, SHORT_CONTEXT, SHORT_FACTOR, LayerOf, MadeUp, theta_of

Floats = NDArray[np.float64]


def _gelu_tanh(x: Floats) -> Floats:
    y: Floats = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": _gelu_tanh,
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def _rms(x: Floats, eps: float) -> Floats:
    y: Floats = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    return y


def _norm(x: Floats, w: Mapping[str, Floats], name: str, layer: LayerOf, eps: float) -> Floats:
    if layer.norm_kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y: Floats = _rms(x, eps) * (w[name] + layer.norm_offset)
    return y + w[name + "_bias"] if layer.norm_bias else y


def _rotated(x: Floats, layer: LayerOf, context: int) -> Floats:
    """x (n_tokens, heads, head_dim) at positions 0, 1, ...: pairs (i, i + rotary_dim / 2) of the
    first rotary_dim dimensions."""
    n_tokens, _, head_dim = x.shape
    theta, rotary_dim = theta_of(layer), layer.rotary_dim or head_dim
    if not theta:
        return x
    rates = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    if layer.long_factors is not None:
        rates = rates / (layer.long_factors if context > SHORT_CONTEXT else SHORT_FACTOR)
    rotations = layer.amplitude * np.exp(1j * np.arange(n_tokens)[:, None] * rates)[:, None]
    half = rotary_dim // 2
    y = (x[..., :half] + 1j * x[..., half:rotary_dim]) * rotations
    return np.concatenate([y.real, y.imag, x[..., rotary_dim:]], axis=-1)


def _heads(x: Floats, w: Mapping[str, Floats], layer: LayerOf, eps: float, name: str) -> Floats:
    """Queries, keys or values (n_tokens, heads, head_dim), normed but not rotated."""
    y = x @ w["w" + name].T + (w["b" + name] if layer.has_bias else 0.0)
    if layer.qk_norm and name != "v":
        y = y if layer.qk_norm == "whole" else y.reshape(len(x), -1, layer.head_dim)
        y = _rms(y, eps) * (w[name + "_norm"] + layer.qk_norm_offset)
    return y.reshape(len(x), -1, layer.head_dim)


def _probs(x: Floats, w: Mapping[str, Floats], layer: LayerOf, eps: float, context: int) -> Floats:
    """(n_heads, n_tokens, n_tokens)."""
    n_tokens = len(x)
    q, k = (_rotated(_heads(x, w, layer, eps, name), layer, context) for name in "qk")
    if layer.temperature is not None:
        beta, length = layer.temperature
        q = q * (1 + beta * np.log(1 + np.arange(n_tokens) // length))[:, None, None]
    k = np.repeat(k, layer.n_heads // layer.n_kv_heads, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) * (layer.scale or 1 / np.sqrt(layer.head_dim))
    if layer.softcap is not None:
        scores = layer.softcap * np.tanh(scores / layer.softcap)
    behind = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
    seen = (behind >= 0) & (behind < (layer.window or n_tokens))
    weights = np.exp(np.where(seen, scores, -np.inf))
    sinks = np.exp(w["sinks"])[:, None, None] if layer.sinks else 0.0
    probs: Floats = weights / (weights.sum(axis=-1, keepdims=True) + sinks)
    return probs


def _attention(
    x: Floats, w: Mapping[str, Floats], layer: LayerOf, eps: float, context: int
) -> Floats:
    v = np.repeat(_heads(x, w, layer, eps, "v"), layer.n_heads // layer.n_kv_heads, axis=1)
    y = np.einsum("hqk,khd->qhd", _probs(x, w, layer, eps, context), v).reshape(len(x), -1)
    out: Floats = y @ w["wo"].T + (w["bo"] if layer.has_bias else 0.0)
    return out


def _ffn(x: Floats, w: Mapping[str, Floats], layer: LayerOf) -> Floats:
    def product(name: str, x: Floats) -> Floats:
        y: Floats = x @ w["w_" + name].T + (w["b_" + name] if layer.has_bias else 0.0)
        return y

    activation, up = _ACTIVATIONS[layer.activation], product("up", x)
    hidden = activation(product("gate", x)) * up if layer.gated else activation(up)
    return product("down", hidden)


def _layer(x: Floats, w: Mapping[str, Floats], layer: LayerOf, eps: float, context: int) -> Floats:
    for name in ("attn_norm", "ffn_norm"):
        y = _norm(x, w, name, layer, eps) if layer.norm_before else x
        is_attention = name == "attn_norm"
        y = _attention(y, w, layer, eps, context) if is_attention else _ffn(y, w, layer)
        y = _norm(y, w, name + "_after", layer, eps) if layer.norm_after else y
        x = x + layer.residual_scale * y
    return x


def _of_layer(weights: Mapping[str, NDArray[Any]], i: int) -> dict[str, Floats]:
    prefix = f"layers.{i}."
    return {
        name.removeprefix(prefix): values.astype(np.float64)
        for name, values in weights.items()
        if name.startswith(prefix)
    }


def states(
    weights: Mapping[str, NDArray[Any]],
    token_ids: list[int],
    eps: float,
    model: MadeUp = BASE,
    context: int = 256,
) -> list[Floats]:
    """The state (n_tokens, d_model) before the first layer and after each, and what the last norm
    makes of the last, in float64, in a context of so many positions."""
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    x = wide["token_embd"][token_ids] * model.embedding_scale
    if model.learned_positions is not None:
        x = x + wide["position_embd"][: len(token_ids)]
    found = [x]
    for i, layer in enumerate(model.layers):
        found.append(_layer(found[-1], _of_layer(weights, i), layer, eps, context))
    kind = model.output_norm_kind
    last = LayerOf(1, 1, 2, 1, None, 0.0, norm_kind=kind, norm_bias=kind == "layer")
    return [*found, _norm(found[-1], wide, "output_norm", last, eps)]


def probabilities(
    weights: Mapping[str, NDArray[Any]],
    token_ids: list[int],
    eps: float,
    model: MadeUp = BASE,
    context: int = 256,
) -> list[Floats]:
    """What each query of each layer takes of each position: (n_heads, n_tokens, n_tokens)."""
    found = []
    every = states(weights, token_ids, eps, model, context)
    for i, layer in enumerate(model.layers):
        w = _of_layer(weights, i)
        x = _norm(every[i], w, "attn_norm", layer, eps) if layer.norm_before else every[i]
        found.append(_probs(x, w, layer, eps, context))
    return found


def forward(
    weights: Mapping[str, NDArray[Any]],
    token_ids: list[int],
    eps: float,
    model: MadeUp = BASE,
    context: int = 256,
) -> Floats:
    """Logits (n_tokens, vocab_size)."""
    normed = states(weights, token_ids, eps, model, context)[-1]
    logits: Floats = normed @ weights["output"].astype(np.float64).T * model.logit_scale
    cap = model.logit_softcap
    return logits if cap is None else cap * np.tanh(logits / cap)
