"""Tiny Qwen3.5 folders with a head that predicts further tokens, written from the published names
and shapes; and what such a head computes, in NumPy.

transformers leaves the head out, so it can be no oracle.  `head_rows` does what vLLM and llama.cpp
do: embedding before state, states behind the model's final norm, norms that store 1 as 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import tiny
from babble import FLAT
from pyroclast import LLM
from pyroclast.engine.draft_speculator import DraftSpeculator
from pyroclast.engine.head_drafts import HeadDrafts

Floats = NDArray[Any]
Tensors = dict[str, NDArray[np.float32]]

D_MODEL, D_FF, VOCAB_SIZE, N_LAYERS = 96, 160, 320, 4
N_HEADS, N_KV_HEADS, HEAD_DIM, ROTARY_DIM = 3, 1, 32, 8
N_K_HEADS, N_V_HEADS, STATE_DIM = 1, 2, 16
EPS, THETA = 1e-6, 10000.0
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": D_MODEL,
    "intermediate_size": D_FF,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "head_dim": HEAD_DIM,
    "linear_key_head_dim": STATE_DIM,
    "linear_value_head_dim": STATE_DIM,
    "linear_num_key_heads": N_K_HEADS,
    "linear_num_value_heads": N_V_HEADS,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "mtp_num_hidden_layers": 1,
    "max_position_embeddings": 512,
    "rms_norm_eps": EPS,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": THETA,
        "partial_rotary_factor": ROTARY_DIM / HEAD_DIM,
    },
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def write_folder(folder: Path, tensors: Mapping[str, NDArray[np.float32]], **changes: Any) -> Path:
    """Those weights under that config."""
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    tiny.write_hf_tokenizer(folder, replace(tiny.BASE, vocab_size=VOCAB_SIZE))
    return folder


def random_tensors(seed: int = 0) -> Tensors:
    """Of a model and its head.  Exact in float16."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB_SIZE, D_MODEL), "model.norm.weight": (D_MODEL,)}
    shapes["lm_head.weight"] = (VOCAB_SIZE, D_MODEL)
    for i, kind in enumerate(CONFIG["layer_types"]):
        shapes |= _layer(f"model.layers.{i}.", kind == "full_attention")
    shapes |= _layer("mtp.layers.0.", True)
    shapes["mtp.fc.weight"] = (D_MODEL, 2 * D_MODEL)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        shapes[f"mtp.{name}.weight"] = (D_MODEL,)
    return {name: _values(rng, name, shape) for name, shape in shapes.items()}


def _layer(prefix: str, has_attention: bool) -> dict[str, tuple[int, ...]]:
    q_dim, kv_dim = N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM
    v_dim = N_V_HEADS * STATE_DIM
    n_channels = 2 * N_K_HEADS * STATE_DIM + v_dim
    mixer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (2 * q_dim, D_MODEL),
        "self_attn.k_proj.weight": (kv_dim, D_MODEL),
        "self_attn.v_proj.weight": (kv_dim, D_MODEL),
        "self_attn.o_proj.weight": (D_MODEL, q_dim),
        "self_attn.q_norm.weight": (HEAD_DIM,),
        "self_attn.k_norm.weight": (HEAD_DIM,),
    }
    if not has_attention:
        mixer = {
            "linear_attn.in_proj_qkv.weight": (n_channels, D_MODEL),
            "linear_attn.in_proj_z.weight": (v_dim, D_MODEL),
            "linear_attn.in_proj_b.weight": (N_V_HEADS, D_MODEL),
            "linear_attn.in_proj_a.weight": (N_V_HEADS, D_MODEL),
            "linear_attn.conv1d.weight": (n_channels, 1, 4),
            "linear_attn.dt_bias": (N_V_HEADS,),
            "linear_attn.A_log": (N_V_HEADS,),
            "linear_attn.norm.weight": (STATE_DIM,),
            "linear_attn.out_proj.weight": (D_MODEL, v_dim),
        }
    mixer |= {
        "input_layernorm.weight": (D_MODEL,),
        "post_attention_layernorm.weight": (D_MODEL,),
        "mlp.gate_proj.weight": (D_FF, D_MODEL),
        "mlp.up_proj.weight": (D_FF, D_MODEL),
        "mlp.down_proj.weight": (D_MODEL, D_FF),
    }
    return {prefix + name: shape for name, shape in mixer.items()}


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Products keep the size of what they multiply; logits are far apart."""
    scale = 0.3 if len(shape) == 1 else 1.4 / np.sqrt(shape[-1])
    values = scale * rng.standard_normal(shape)
    return values.astype(np.float16).astype(np.float32)


# ---- what a head computes ---------------------------------------------------------------------


def head_rows(tensors: Tensors, token_ids: list[int], before: Floats) -> tuple[Floats, Floats]:
    """(logits, normed states) of the head at each position: float64 (n, vocab_size) and (n,
    d_model).  before (n, d_model): the normed state of the position before each."""
    own = {name.removeprefix("mtp."): t.astype(np.float64) for name, t in tensors.items()}
    embedded = own["model.embed_tokens.weight"][token_ids]
    both = [
        _norm(embedded, own["pre_fc_norm_embedding.weight"]),
        _norm(before, own["pre_fc_norm_hidden.weight"]),
    ]
    x = np.concatenate(both, axis=1) @ own["fc.weight"].T
    layer = {n.removeprefix("layers.0."): t for n, t in own.items() if n.startswith("layers.0.")}
    x = x + _attention(layer, _norm(x, layer["input_layernorm.weight"]))
    y = _norm(x, layer["post_attention_layernorm.weight"])
    gate, up = y @ layer["mlp.gate_proj.weight"].T, y @ layer["mlp.up_proj.weight"].T
    x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T
    normed = _norm(x, own["norm.weight"])
    return normed @ own["lm_head.weight"].T, normed


def _norm(x: Floats, weight: Floats) -> Floats:
    found: Floats = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * (1 + weight)
    return found


def _attention(layer: Tensors, x: Floats) -> Floats:
    n = len(x)
    q_and_gate = (x @ layer["self_attn.q_proj.weight"].T).reshape(n, N_HEADS, 2, HEAD_DIM)
    q, gate = q_and_gate[:, :, 0], q_and_gate[:, :, 1]
    k = (x @ layer["self_attn.k_proj.weight"].T).reshape(n, 1, HEAD_DIM)
    v = x @ layer["self_attn.v_proj.weight"].T
    q = _rotated(_norm(q, layer["self_attn.q_norm.weight"]))
    k = _rotated(_norm(k, layer["self_attn.k_norm.weight"]))
    scores = np.einsum("qhd,kd->hqk", q, k[:, 0]) / np.sqrt(HEAD_DIM)
    scores[:, np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1]] = -np.inf
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,kd->qhd", probs, v) / (1 + np.exp(-gate))
    found: Floats = mixed.reshape(n, -1) @ layer["self_attn.o_proj.weight"].T
    return found


def _rotated(x: Floats) -> Floats:
    """x (n, heads, head_dim) at positions 0, 1, ...; pairs (i, i + rotary_dim / 2)."""
    half = ROTARY_DIM // 2
    angles = np.arange(len(x))[:, None, None] * THETA ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:ROTARY_DIM]
    turned = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    return np.concatenate([*turned, x[..., ROTARY_DIM:]], axis=-1)


# ---- a head that is right ---------------------------------------------------------------------

N_CYCLE = 90  # tokens whose embeddings are orthogonal
STUMBLES = 7  # after every so many tokens of the cycle the head is wrong


def rigged_tensors(*, stumbles: bool) -> Tensors:
    """A model that says i + 1 behind i, up to N_CYCLE, whatever came before; and a head that sees
    only the state before: it knows the token by its successor.  stumbles: with mistakes, so that
    drafts behind the first one are right only if what a wrong draft left is gone."""
    found = random_tensors(3)
    for name in found:
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            found[name] = np.zeros_like(found[name])  # layers add nothing
        if name.endswith("norm.weight") or "pre_fc" in name:
            found[name] = np.zeros_like(found[name])
    embedding = np.zeros((VOCAB_SIZE, D_MODEL), np.float32)
    embedding[np.arange(N_CYCLE), np.arange(N_CYCLE)] = 1
    embedding[N_CYCLE:, N_CYCLE:] = 0.1 * found["lm_head.weight"][N_CYCLE:, N_CYCLE:]
    found["model.embed_tokens.weight"] = embedding
    following = (np.arange(N_CYCLE) + 1) % N_CYCLE
    head = np.zeros((VOCAB_SIZE, D_MODEL), np.float32)
    head[following, np.arange(N_CYCLE)] = 1
    found["lm_head.weight"] = head
    turn = np.zeros((D_MODEL, D_MODEL), np.float32)
    turn[following, np.arange(N_CYCLE)] = 1
    if stumbles:
        turn[:, :N_CYCLE:STUMBLES] = np.roll(turn[:, :N_CYCLE:STUMBLES], 5, axis=0)
    found["mtp.fc.weight"] = np.concatenate([np.zeros_like(turn), turn], axis=1)
    return found


def eager(llm: LLM) -> LLM:
    """Asks the head before every step: its drafts cost nothing by a clock that the model moves."""
    stepper = llm._loop.stepper
    old = stepper._speculator
    assert isinstance(old, DraftSpeculator) and isinstance(old.draft, HeadDrafts)
    now, forward = [0.0], llm.model.forward

    def step(sample: bool = False) -> None:
        now[0] += 1
        forward(sample)

    llm.model.forward = step  # type: ignore[method-assign]
    stepper._speculator = DraftSpeculator(old.draft, 0.0, FLAT, lambda: now[0])
    return llm
