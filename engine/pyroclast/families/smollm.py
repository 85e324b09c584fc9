"""SmolLM3: Llama without rotary positions on every fourth layer."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.errors import ModelFileError
from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec


def _rotates(h: Hyperparameters) -> list[bool]:
    """Which layers rotate.  In `no_rope_layers` 1 stands for those that do."""
    listed = h.extra.get("no_rope_layers")
    if listed is None:
        interval = h.size("no_rope_layer_interval", 4)
        return [(i + 1) % interval != 0 for i in range(h.n_layers)]
    if not isinstance(listed, list) or any(each not in (0, 1) for each in listed):
        raise ModelFileError(f"no_rope_layers must be a list of 0 and 1, got {listed!r}")
    if len(listed) != h.n_layers:
        raise ModelFileError(f"no_rope_layers must have {h.n_layers} items, got {len(listed)}")
    return [each == 1 for each in listed]


def config(h: Hyperparameters) -> ModelConfig:
    """Llama's layers, some without rotation; only those have the window, if the file has one and
    does not list the layers."""

    def layer(i: int, rotates: bool) -> LayerSpec:
        windowed = h.windowed is not None or not rotates
        return llama.layer(
            h, i, rope=h.rope if rotates else None, window=h.window_of(i) if windowed else None
        )

    return h.config(layer(i, rotates) for i, rotates in enumerate(_rotates(h)))


SMOLLM3 = replace(
    llama.FAMILY,
    name="smollm3",
    config=config,
    hf_model_type="smollm3",
    gguf_architecture="smollm3",
    hf_keys={
        **llama.HF_KEYS,
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "no_rope_layers": "no_rope_layers",
        "no_rope_layer_interval": "no_rope_layer_interval",
    },
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_kv_heads": 4,
        "max_seq_len": 32768,
        "rope_theta": 2e6,
        "tie_embeddings": True,
    },
    hf_window_key="use_sliding_window",
)
