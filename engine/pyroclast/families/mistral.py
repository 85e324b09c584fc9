"""Mistral: Llama with a sliding window.  GGUF files write it as "llama"."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama

FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    hf_model_type="mistral",
    gguf_architecture=None,
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_kv_heads": 8,
        "max_seq_len": 131072,
        "sliding_window": 4096,
    },
)
