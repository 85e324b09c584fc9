"""The weights of one decoder layer, and how they are laid out for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec
from pyroclast.model.layer_inputs import LayerInputWeights, load_layer_input
from pyroclast.model.packer import Norm, Packer, Product
from pyroclast.model.recurrent_weights import RecurrentWeights, load_recurrent
from pyroclast.model.stream_weights import LayerStreams, load_layer_streams

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QkNorm:
    """Weights of the norms of q, k and v; v is None where values are not normed.  A layer without
    keys of its own has those of q in place of k."""

    q: Floats
    k: Floats
    v: Floats | None


@dataclass(frozen=True)
class ExpertNorms:
    """Of experts with norms of their own: what the router and the experts read, and what is made of
    the experts' result and of the shared expert's before they are added up."""

    router: Norm
    experts: Norm
    experts_after: Norm
    shared_after: Norm


@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights; qkv and gate_up are single products where the formats agree.  In a
    recurrent layer qkv and wo are the first and the last products of its mixer.  gate_up is w_up
    alone in a layer without a gate.  In a layer with experts gate_up and w_down are those of the
    shared one; expert_gate_up and expert_down are those of all others, router has the product that
    chooses, selection_bias what is added to its scores, gate_scales what multiplies its gates, and
    expert_norms those of their own.  out_scale (1,) multiplies the state at the layer's end.
    laurel_in and laurel_out are the products beside the mixer.  None, and no product, is what the
    layer does not have."""

    attn_norm: Norm | None
    qkv: tuple[Product, ...]
    gate: tuple[Product, ...]
    recurrent: RecurrentWeights | None
    qk_norm: QkNorm | None
    sinks: Floats | None
    wo: tuple[Product, ...]
    attn_norm_after: Norm | None
    ffn_norm: Norm | None
    experts: ExpertsSpec | None
    router: tuple[Product, ...]
    selection_bias: Floats | None
    gate_scales: Floats | None
    expert_norms: ExpertNorms | None
    expert_gate_up: tuple[Product, ...]
    expert_down: tuple[Product, ...]
    gate_up: tuple[Product, ...]
    w_down: tuple[Product, ...]
    ffn_norm_after: Norm | None
    input: LayerInputWeights | None
    out_scale: Floats | None
    laurel_in: tuple[Product, ...]
    laurel_out: tuple[Product, ...]
    laurel_norm: Norm | None
    streams: LayerStreams | None


def load_layer(packer: Packer, prefix: str, spec: LayerSpec, config: ModelConfig) -> Layer:
    """The weights of the layer whose names begin like that."""
    before_mixer, before_ffn = spec.norms
    has_input, has_laurel = config.layer_input is not None, spec.laurel_rank is not None

    def products(names: Sequence[str], has_bias: bool) -> tuple[Product, ...]:
        biases = [f"{prefix}b{name[1:]}" for name in names] if has_bias else None
        return packer.products([prefix + name for name in names], biases)

    def norm(name: str, part: object, is_there: bool) -> Norm | None:
        return packer.norm(prefix + name, spec.norm) if is_there and part is not None else None

    return Layer(
        attn_norm=norm(before_mixer, spec.mixer, spec.norm_before),
        **_load_mixer(packer, prefix, spec, products),
        attn_norm_after=norm(f"{before_mixer}_after", spec.mixer, spec.norm_after),
        ffn_norm=norm(before_ffn, spec.ffn, spec.norm_before),
        experts=spec.experts,
        **_load_feed_forward(packer, prefix, spec.ffn, products),
        expert_norms=_load_expert_norms(packer, prefix, spec),
        ffn_norm_after=norm(f"{before_ffn}_after", spec.ffn, spec.norm_after),
        input=load_layer_input(packer, prefix, spec.norm) if has_input else None,
        out_scale=packer.vector(prefix + "out_scale") if spec.out_scale else None,
        laurel_in=products(("w_laurel_in",), False) if has_laurel else (),
        laurel_out=products(("w_laurel_out",), False) if has_laurel else (),
        laurel_norm=norm("laurel_norm", spec.mixer, has_laurel),
        streams=load_layer_streams(packer, prefix, spec.norm, config.streams),
    )


def _load_feed_forward(
    packer: Packer,
    prefix: str,
    ffn: FeedForwardSpec | None,
    products: Callable[..., tuple[Product, ...]],
) -> dict[str, Any]:
    """The fields of Layer that hold the feed-forward's weights."""
    experts = None if ffn is None else ffn.experts
    found: dict[str, Any] = dict.fromkeys(
        ("router", "expert_gate_up", "expert_down", "gate_up", "w_down"), ()
    )
    found |= dict.fromkeys(("selection_bias", "gate_scales"))
    if ffn is None:
        return found
    if experts is not None:

        def stacks(*names: str) -> tuple[Product, ...]:
            biases = [f"{prefix}b{name[1:]}_experts" for name in names] if ffn.bias else []
            return packer.experts([f"{prefix}{name}_experts" for name in names], biases)

        selects = experts.selection_bias
        found["router"] = products(("w_router",), experts.router_bias)
        found["selection_bias"] = packer.vector(prefix + "b_selection") if selects else None
        if experts.gate_scales:
            found["gate_scales"] = packer.vector(prefix + "gate_scales")
        found["expert_gate_up"], found["expert_down"] = stacks(*ffn.inputs), stacks("w_down")
    if ffn.dense_d_ff:
        has_bias = ffn.bias and experts is None
        found["gate_up"] = products(ffn.inputs, has_bias)
        found["w_down"] = products(("w_down",), has_bias)
    return found


def _load_expert_norms(packer: Packer, prefix: str, spec: LayerSpec) -> ExpertNorms | None:
    if spec.experts is None or not spec.experts.own_norms:
        return None
    return ExpertNorms(
        router=Norm(packer.array(prefix + "router_norm", _over_root)),
        experts=packer.norm(prefix + "experts_norm", spec.norm),
        experts_after=packer.norm(prefix + "experts_norm_after", spec.norm),
        shared_after=packer.norm(prefix + "shared_norm_after", spec.norm),
    )


def _over_root(values: Floats) -> Floats:
    return values / np.float32(np.sqrt(len(values)))


def _load_mixer(
    packer: Packer, prefix: str, spec: LayerSpec, products: Callable[..., tuple[Product, ...]]
) -> dict[str, Any]:
    """The fields of Layer that hold the mixer's weights."""
    if (recurrent := spec.recurrent) is not None:
        return {
            "qkv": products(recurrent.inputs, False),
            "gate": (),
            "recurrent": load_recurrent(packer, prefix, recurrent),
            "qk_norm": None,
            "sinks": None,
            "wo": products((recurrent.output,), False),
        }
    if spec.mixer is None:
        none = dict.fromkeys(("recurrent", "qk_norm", "sinks"))
        return dict.fromkeys(("qkv", "gate", "wo"), ()) | none
    attention = spec.attention
    return {
        "qkv": products(attention.inputs, attention.qkv_bias),
        "gate": products(("w_q_gate",), False) if attention.gate else (),
        "recurrent": None,
        "qk_norm": _load_qk_norm(packer, prefix, attention),
        "sinks": packer.vector(prefix + "sinks") if attention.sinks else None,
        "wo": products(("wo",), attention.o_bias),
    }


def _load_qk_norm(packer: Packer, prefix: str, attention: AttentionSpec) -> QkNorm | None:
    if attention.qk_norm is None:
        return None
    offset, has_keys = attention.qk_norm.weight_offset, attention.cache_layer is None
    q = packer.vector(prefix + "q_norm", offset=offset)
    k = packer.vector(prefix + "k_norm", offset=offset) if has_keys else q
    return QkNorm(q, k, packer.ones(attention.head_dim) if attention.v_norm and has_keys else None)
