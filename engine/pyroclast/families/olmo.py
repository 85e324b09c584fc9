"""OLMo 2 and 3: norms after each block and none before, and norms of q and k over all heads at
once.  OLMo 3 has windows on three layers of four, whose frequencies no scaling stretches."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec, NormSpec


def _layer(h: Hyperparameters, i: int, window: int | None) -> LayerSpec:
    rope = h.rope if window is None else h.window_rope
    norm = NormSpec(h.norm_eps)
    spec = llama.layer(h, i, window=window, rope=rope, qk_norm=norm, qk_norm_whole=True)
    return replace(spec, norm_before=False, norm_after=True)


def config(h: Hyperparameters) -> ModelConfig:
    """Every fourth layer sees everything, if there is a window and the file says nothing else."""
    windows = (
        h.window_of(i) if h.windowed is not None or (i + 1) % 4 else None for i in range(h.n_layers)
    )
    return h.config(_layer(h, i, window) for i, window in enumerate(windows))


def _tensors(names: dict[str, str], added: dict[str, str]) -> dict[str, str]:
    """Llama's, without the norms before each block."""
    before = ("layers.{i}.attn_norm", "layers.{i}.ffn_norm")
    return {name: each for name, each in names.items() if name not in before} | added


OLMO2 = replace(
    llama.FAMILY,
    name="olmo2",
    config=config,
    hf_model_type="olmo2",
    gguf_architecture="olmo2",
    gguf_paired=frozenset(),
    hf_tensors=_tensors(
        llama.HF_TENSORS,
        {
            "layers.{i}.attn_norm_after": "model.layers.{i}.post_attention_layernorm.weight",
            "layers.{i}.ffn_norm_after": "model.layers.{i}.post_feedforward_layernorm.weight",
            "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
            "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
        },
    ),
    gguf_tensors=_tensors(
        llama.GGUF_TENSORS,
        {
            "layers.{i}.attn_norm_after": "blk.{i}.post_attention_norm.weight",
            "layers.{i}.ffn_norm_after": "blk.{i}.post_ffw_norm.weight",
            "layers.{i}.q_norm": "blk.{i}.attn_q_norm.weight",
            "layers.{i}.k_norm": "blk.{i}.attn_k_norm.weight",
        },
    ),
    hf_keys={field: key for field, key in llama.HF_KEYS.items() if field != "ffn_bias"},
    gguf_keys={**llama.GGUF_KEYS, "windowed": "attention.sliding_window_pattern"},
    hf_defaults={**llama.FAMILY.hf_defaults, "norm_eps": 1e-5},
)

OLMO3 = replace(
    OLMO2,
    name="olmo3",
    hf_model_type="olmo3",
    gguf_architecture=None,  # GGUF files write it as "olmo2"
    hf_keys={**OLMO2.hf_keys, "sliding_window": "sliding_window", "windowed": "layer_types"},
    hf_defaults={**OLMO2.hf_defaults, "rope_theta": 500000.0, "sliding_window": 4096},
)
