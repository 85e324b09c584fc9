"""Phi-3 and Phi-4-mini: Llama with q, k and v in one matrix, gate and up in another, a part of
each head rotated, and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama

_FUSED = ("wq", "wk", "wv", "w_gate", "w_up")


def _without(names: tuple[str, ...], tensors: dict[str, str]) -> dict[str, str]:
    return {name: each for name, each in tensors.items() if name.split(".")[-1] not in names}


PHI3 = replace(
    llama.FAMILY,
    name="phi3",
    hf_model_type="phi3",
    gguf_architecture="phi3",
    gguf_paired=frozenset(),
    hf_tensors=_without(_FUSED, llama.HF_TENSORS),
    gguf_tensors=_without(_FUSED, llama.GGUF_TENSORS),
    hf_fused={
        "model.layers.{i}.self_attn.qkv_proj.weight": ("wq", "wk", "wv"),
        "model.layers.{i}.mlp.gate_up_proj.weight": ("w_gate", "w_up"),
    },
    gguf_fused={
        "blk.{i}.attn_qkv.weight": ("wq", "wk", "wv"),
        "blk.{i}.ffn_up.weight": ("w_gate", "w_up"),
    },
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if not field.endswith("bias")},
        "sliding_window": "sliding_window",
    },
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "max_seq_len": 4096,
        "norm_eps": 1e-5,
        "sliding_window": None,
    },
    hf_partial_rotary=True,
)
