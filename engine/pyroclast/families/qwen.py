"""Qwen2 and Qwen2.5: Llama with biases on q, k and v, and a window that has to be switched on."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama

QWEN2 = replace(
    llama.FAMILY,
    name="qwen2",
    hf_model_type="qwen2",
    gguf_architecture="qwen2",
    gguf_paired=frozenset(),
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "max_seq_len": 32768,
        "qkv_bias": True,
        "sliding_window": 4096,
    },
    hf_window_key="use_sliding_window",
)
