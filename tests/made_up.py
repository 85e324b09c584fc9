"""Models that nobody published, whose layers differ in all that a LayerSpec may vary.  Their
forward pass is in made_up_forward.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    NormSpec,
    TemperatureSpec,
)
from pyroclast.families.rope import RopeScaling, RopeSpec


@dataclass(frozen=True)
class LayerOf:
    """One layer; theta 0 rotates nothing, "local" takes what the file has under a key of ours.
    long_factors divide the frequencies in a context of more than 64 positions, and 2 does in a
    shorter one; cosines and sines are multiplied by amplitude then.  temperature is (beta,
    length)."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    window: int | None
    theta: float | str
    activation: str = "silu"
    has_bias: bool = False
    norm_offset: float = 0.0
    norm_kind: Any = "rms"
    norm_bias: bool = False
    norm_before: bool = True
    norm_after: bool = False
    residual_scale: float = 1.0
    qk_norm: str | None = None
    qk_norm_offset: float = 0.0
    rotary_dim: int | None = None
    long_factors: tuple[float, ...] | None = None
    amplitude: float = 1.0
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    temperature: tuple[float, int] | None = None
    gated: bool = True


@dataclass(frozen=True)
class MadeUp:
    """The model: its layers, and what they share."""

    layers: tuple[LayerOf, ...]
    embedding_scale: float = 1.0
    learned_positions: int | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    output_norm_kind: Any = "rms"

    def changed(self, *layers: int, **changes: Any) -> MadeUp:
        """The same model, but for these fields of these layers."""
        return replace(
            self,
            layers=tuple(
                replace(layer, **changes) if i in layers else layer
                for i, layer in enumerate(self.layers)
            ),
        )


LOCAL_THETA = 300.0
SHORT_FACTOR, SHORT_CONTEXT = 2.0, 64
BASE = MadeUp(
    (
        LayerOf(6, 2, 16, 160, 24, "local"),
        LayerOf(3, 1, 32, 96, None, 1e6, "gelu_tanh", has_bias=True),
        LayerOf(6, 6, 16, 128, 40, 0.0, norm_offset=1.0),
        LayerOf(4, 2, 16, 160, None, "local", "gelu"),
    )
)
LAYERS = BASE.layers

# Each alone, in two layers that differ.
FEATURES: dict[str, MadeUp] = {
    "layer norm": BASE.changed(1, 2, norm_kind="layer"),
    "layer norm with a bias": BASE.changed(0, 2, norm_kind="layer", norm_bias=True),
    "rms norm with a bias": BASE.changed(0, 2, norm_bias=True),
    "output norm": replace(BASE, output_norm_kind="layer"),
    "norms after": BASE.changed(0, 2, norm_after=True),
    "norms after with a bias": BASE.changed(1, 2, norm_after=True, norm_bias=True),
    "only norms after": BASE.changed(1, 2, norm_after=True, norm_before=False),
    "no norms": BASE.changed(3, norm_before=False, residual_scale=0.5),
    "residual scale": BASE.changed(1, 2, residual_scale=0.22),
    "residual scale and norms after": BASE.changed(0, 1, residual_scale=0.6, norm_after=True),
    "q/k norm of heads": BASE.changed(0, 1, qk_norm="heads"),
    "q/k norm with an offset": BASE.changed(1, 3, qk_norm="heads", qk_norm_offset=1.0),
    "q/k norm of the whole": BASE.changed(0, 3, qk_norm="whole"),
    "no gate": BASE.changed(0, 1, gated=False),
    "relu": BASE.changed(0, 1, activation="relu"),
    "relu squared, no gate": BASE.changed(2, activation="relu2", gated=False),
    "a part of each head rotated": BASE.changed(0, rotary_dim=6).changed(1, rotary_dim=12),
    "frequencies divided": BASE.changed(0, long_factors=tuple(1 + i * i for i in range(8))),
    "cosines multiplied": BASE.changed(1, long_factors=(3.0,) * 16, amplitude=1.5),
    "temperature": BASE.changed(0, 2, temperature=(0.5, 16)),
    "attention scale": BASE.changed(0, scale=0.6).changed(1, 2, scale=0.05),
    "attention softcap": BASE.changed(0, softcap=0.8).changed(1, softcap=1.5),
    "sinks": BASE.changed(1, 3, sinks=True),
    "embedding scale": replace(BASE, embedding_scale=9.5),
    "learned positions": replace(BASE, learned_positions=300),
    "logit scale": replace(BASE, logit_scale=0.3),
    "logit softcap": replace(BASE, logit_scale=2.0, logit_softcap=1.5),
}
_WITH_BIASES: dict[str, Any] = {"norm_kind": "layer", "norm_bias": True, "norm_after": True}
# All together.
ALL = replace(
    BASE.changed(0, 1, **_WITH_BIASES, residual_scale=0.7, gated=False)
    .changed(0, qk_norm="heads", activation="relu2", scale=0.3, softcap=2.0)
    .changed(0, 2, sinks=True)
    .changed(1, rotary_dim=12, long_factors=(1.5,) * 6, amplitude=1.25, temperature=(0.5, 16))
    .changed(2, 3, norm_before=False, norm_after=True, qk_norm="whole", qk_norm_offset=1.0),
    embedding_scale=3.0,
    learned_positions=256,
    logit_scale=2.0,
    logit_softcap=4.0,
    output_norm_kind="layer",
)


def theta_of(layer: LayerOf) -> float:
    return LOCAL_THETA if isinstance(layer.theta, str) else layer.theta


def _rope_of(layer: LayerOf, h: Hyperparameters) -> RopeSpec | None:
    theta = h.extra["local_rope_theta"] if isinstance(layer.theta, str) else layer.theta
    if not theta:
        return None
    scaling = None
    if layer.long_factors is not None:
        scaling = RopeScaling(
            "longrope",
            4.0,
            original_max_seq_len=SHORT_CONTEXT,
            attention_factor=layer.amplitude,
            short_factors=(SHORT_FACTOR,) * len(layer.long_factors),
            long_factors=layer.long_factors,
        )
    return RopeSpec(theta, scaling, rotary_dim=layer.rotary_dim)


def spec_of(layer: LayerOf, h: Hyperparameters) -> LayerSpec:
    qk_norm = NormSpec(h.norm_eps, weight_offset=layer.qk_norm_offset) if layer.qk_norm else None
    attention = AttentionSpec(
        layer.n_heads,
        layer.n_kv_heads,
        layer.head_dim,
        _rope_of(layer, h),
        window=layer.window,
        qkv_bias=layer.has_bias,
        o_bias=layer.has_bias,
        scale=layer.scale,
        softcap=layer.softcap,
        qk_norm=qk_norm,
        qk_norm_whole=layer.qk_norm == "whole",
        temperature=None if layer.temperature is None else TemperatureSpec(*layer.temperature),
        sinks=layer.sinks,
    )
    return LayerSpec(
        attention,
        FeedForwardSpec(layer.d_ff, layer.activation, layer.gated, bias=layer.has_bias),
        NormSpec(h.norm_eps, layer.norm_kind, layer.norm_offset, layer.norm_bias),
        layer.norm_before,
        layer.norm_after,
        layer.residual_scale,
    )


def config(h: Hyperparameters, model: MadeUp = BASE) -> ModelConfig:
    output_norm = NormSpec(h.norm_eps, model.output_norm_kind)
    return replace(
        h.config(tuple(spec_of(layer, h) for layer in model.layers)),
        output_norm=replace(output_norm, bias=output_norm.kind == "layer"),
        embedding_scale=model.embedding_scale,
        learned_positions=model.learned_positions,
        logit_scale=model.logit_scale,
        logit_softcap=model.logit_softcap,
    )


_VECTORS = (
    "attn_norm_bias", "attn_norm_after", "attn_norm_after_bias", "q_norm", "k_norm", "sinks",
    "ffn_norm_bias", "ffn_norm_after", "ffn_norm_after_bias",
)  # fmt: skip


def _names(table: Mapping[str, str], layer: str) -> dict[str, str]:
    more = {f"layers.{{i}}.{name}": f"{layer}.{{i}}.{name}.weight" for name in _VECTORS}
    return {**table, **more, "position_embd": "positions", "output_norm_bias": "norm_bias"}


FUSED = {
    ".{i}.qkv": ("wq", "wk", "wv"),
    ".{i}.qkv_bias": ("bq", "bk", "bv"),
    ".{i}.gate_up": ("w_gate", "w_up"),
}
MATRICES = frozenset({"wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"})


def fused_family(model: MadeUp) -> Family:
    """The same family, of which files hold several weights in one tensor, and folders the
    transposes of matrices."""
    plain = family(model)
    fused = {part for parts in FUSED.values() for part in parts}
    return replace(
        plain,
        gguf_tensors={
            name: each
            for name, each in plain.gguf_tensors.items()
            if name.rpartition(".")[2] not in fused
        },
        hf_fused={"model.layers" + key: parts for key, parts in FUSED.items()},
        gguf_fused={"blk" + key: parts for key, parts in FUSED.items()},
        hf_transposed=MATRICES,
    )


def family(model: MadeUp) -> Family:
    return replace(
        llama.FAMILY,
        name="made-up",
        config=lambda h: config(h, model),
        hf_model_type="made_up",
        gguf_architecture="made-up",
        gguf_paired=frozenset(),
        hf_tensors=_names(llama.HF_TENSORS, "model.layers"),
        gguf_tensors=_names(llama.GGUF_TENSORS, "blk"),
        hf_keys={**llama.HF_KEYS, "local_rope_theta": "rope_local_base_freq"},
        gguf_keys={**llama.GGUF_KEYS, "local_rope_theta": "rope.local.freq_base"},
    )


FAMILY = family(BASE)
