"""Mistral: Llama with a sliding window, GGUF files write it as "llama"; and Ministral 3, whose
queries grow with the position (Llama 4's temperature) and whose frequencies YaRN stretches."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import TemperatureSpec
from pyroclast.families.rope import RopeScaling

FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    hf_model_type="mistral",
    gguf_architecture=None,
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if not field.endswith("bias")},
        "sliding_window": "sliding_window",
    },
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_kv_heads": 8,
        "max_seq_len": 131072,
        "sliding_window": 4096,
    },
)


def ministral3_config(h: Hyperparameters) -> ModelConfig:
    """Llama's layers, with that temperature where the file has a beta."""
    beta = h.optional("temperature_beta")
    length = h.rope_scaling.original_max_seq_len if h.rope_scaling else h.max_seq_len
    temperature = None if beta is None else TemperatureSpec(beta, length)
    return h.config(llama.layer(h, i, temperature=temperature) for i in range(h.n_layers))


MINISTRAL3 = replace(
    FAMILY,
    name="ministral3",
    config=ministral3_config,
    hf_model_type="ministral3",
    gguf_architecture="mistral3",
    hf_rope_keys={"temperature_beta": "llama_4_scaling_beta"},
    gguf_keys={**llama.GGUF_KEYS, "temperature_beta": "attention.temperature_scale"},
    hf_defaults={
        **FAMILY.hf_defaults,
        "head_dim": 128,
        "max_seq_len": 262144,
        "norm_eps": 1e-5,
        "rope_theta": 1e6,
        "rope_scaling": RopeScaling(
            "yarn", 16.0, original_max_seq_len=16384, mscale=1.0, mscale_all_dim=1.0
        ),
        "temperature_beta": 0.1,
        "sliding_window": None,
    },
)
