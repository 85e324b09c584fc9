"""The feed-forward of a layer with experts: its buffers, and the calls that record it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec
from pyroclast.model.calls import call_norm, call_product, call_residual
from pyroclast.model.layer_weights import Layer
from pyroclast.model.packer import Product
from pyroclast.model.workspace import Activations
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.route import SCORINGS

Array = NDArray[Any]


@dataclass(frozen=True)
class ExpertBuffers:
    """Of a step: logits (max_batch_tokens, n_experts); experts and gates (max_batch_tokens,
    n_active); the order of the pairs of token and expert, and where each expert's start; and a row
    for each pair of what the experts compute, hidden (d_ff wide) and out (d_model wide).  With
    norms of their own, weighted and total (max_batch_tokens, d_model): the weighted sum of what a
    token's experts give, and the sum of its norm and that of the shared expert's result."""

    logits: Array
    experts: Array
    gates: Array
    order: Array
    starts: Array
    hidden: Activations
    out: Array
    weighted: Array | None
    total: Array | None

    @property
    def groups(self) -> dict[str, Any]:
        """The pairs of each expert, as products take them."""
        return {"order": self.order, "starts": self.starts}

    @classmethod
    def zeros(
        cls, ffn: FeedForwardSpec, d_model: int, layers: Sequence[Layer], n: int, memory: Memory
    ) -> ExpertBuffers:
        """For the layers that are like ffn, and steps of up to n tokens."""
        experts = experts_of(ffn)
        n_pairs, zeros, apart = n * experts.n_active, memory.zeros, experts.own_norms
        readers = [product.weight for layer in layers for product in layer.expert_down]
        return cls(
            logits=zeros((n, experts.n_experts), np.float32),
            experts=zeros((n, experts.n_active), np.int32),
            gates=zeros((n, experts.n_active), np.float32),
            order=zeros((n_pairs,), np.int32),
            starts=zeros((experts.n_experts + 1,), np.int32),
            hidden=Activations.zeros(n_pairs, ffn.d_ff, readers, memory, keep=False),
            out=zeros((n_pairs, d_model), np.float32),
            weighted=zeros((n, d_model), np.float32) if apart else None,
            total=zeros((n, d_model), np.float32) if apart else None,
        )


def expert_buffers(
    config: ModelConfig, layers: Sequence[Layer], n: int, memory: Memory
) -> dict[FeedForwardSpec, ExpertBuffers]:
    """By what they are for: layers with equal feed-forwards share them."""
    alike: dict[FeedForwardSpec, list[Layer]] = {}
    for spec, layer in zip(config.layers, layers, strict=True):
        if spec.ffn is not None and spec.ffn.experts is not None:
            alike.setdefault(spec.ffn, []).append(layer)
    return {
        ffn: ExpertBuffers.zeros(ffn, config.d_model, those, n, memory)
        for ffn, those in alike.items()
    }


def experts_of(ffn: FeedForwardSpec) -> ExpertsSpec:
    """The experts of a feed-forward that has them."""
    assert ffn.experts is not None
    return ffn.experts


def call_experts(
    ops: Recorder,
    ffn: FeedForwardSpec,
    residual_scale: float,
    layer: Layer,
    work: ExpertBuffers,
    x: Activations,
    out: Array,
    n_tokens: Array,
) -> None:
    """out += residual_scale * the weighted sum of what each token's experts make of x."""
    _choose(ops, experts_of(ffn), layer, work, x, n_tokens)
    _compute(ops, ffn, layer, work, x, n_tokens)
    _combine(ops, ffn, work, out, n_tokens, scale=residual_scale, accumulate=True)


def call_experts_apart(
    ops: Recorder,
    spec: LayerSpec,
    ffn: FeedForwardSpec,
    layer: Layer,
    work: ExpertBuffers,
    state: Array,
    x: Activations,
    n_tokens: Array,
) -> None:
    """Of experts with norms of their own: work.weighted = the weighted sum of what each token's
    experts make of a norm of the state.  x is where norms go, and what it holds is lost."""
    norms, [router], [gate_up] = layer.expert_norms, layer.router, layer.expert_gate_up
    assert norms is not None and work.weighted is not None
    read = x.part(state.shape[1], [router.weight])
    call_norm(ops, state, norms.router, spec.norm, read, n_tokens)
    _choose(ops, experts_of(ffn), layer, work, read, n_tokens)
    read = x.part(state.shape[1], [gate_up.weight])
    call_norm(ops, state, norms.experts, spec.norm, read, n_tokens)
    _compute(ops, ffn, layer, work, read, n_tokens)
    _combine(ops, ffn, work, work.weighted, n_tokens, scale=1.0, accumulate=False)


def call_total(
    ops: Recorder,
    spec: LayerSpec,
    layer: Layer,
    work: ExpertBuffers,
    shared: Array,
    n_tokens: Array,
) -> Array:
    """Where the sum of two norms is put: of what the shared expert gave, and of work.weighted."""
    norms, total, weighted = layer.expert_norms, work.total, work.weighted
    assert norms is not None and total is not None and weighted is not None
    call_norm(ops, shared, norms.shared_after, spec.norm, Activations(total, None), n_tokens)
    whole = replace(spec, residual_scale=1.0)  # which counts for what is added to the state
    call_residual(ops, total, weighted, norms.experts_after, whole, n_tokens)
    return total


def _compute(
    ops: Recorder,
    ffn: FeedForwardSpec,
    layer: Layer,
    work: ExpertBuffers,
    x: Activations,
    n_tokens: Array,
) -> None:
    """work.out = what each of a token's experts makes of x."""
    experts, d_model = experts_of(ffn), work.out.shape[1]
    [gate_up], [down] = layer.expert_gate_up, layer.expert_down
    hidden = work.hidden.part(ffn.d_ff, [down.weight])
    _gate_and_up(ops, ffn, gate_up, work, x, hidden, n_tokens)
    ops.call(
        "expert_down",
        down.weight.format,
        n_tokens=n_tokens,
        x=hidden.of(down.weight),
        **_weights(down),
        **work.groups,
        out=work.out,
        **_sizes(experts),
        n_rows=d_model,
        n_cols=down.weight.n_cols,
    )


def _combine(
    ops: Recorder,
    ffn: FeedForwardSpec,
    work: ExpertBuffers,
    out: Array,
    n_tokens: Array,
    *,
    scale: float,
    accumulate: bool,
) -> None:
    """out = scale * the weighted sum of what a token's experts gave: written, or added."""
    ops.call(
        "combine",
        n_tokens=n_tokens,
        y=work.out,
        gates=work.gates,
        out=out,
        n_active=experts_of(ffn).n_active,
        n_cols=out.shape[1],
        scale=float(scale),
        accumulate=int(accumulate),
    )


def _gate_and_up(
    ops: Recorder,
    ffn: FeedForwardSpec,
    product: Product,
    work: ExpertBuffers,
    x: Activations,
    out: Activations,
    n_tokens: Array,
) -> None:
    """The first products of the experts, and the activation."""
    ops.call(
        "expert_gate_up",
        product.weight.format,
        n_tokens=n_tokens,
        x=x.of(product.weight),
        **_weights(product),
        **work.groups,
        out=out.values,
        out_q8=out.q8,
        **_sizes(experts_of(ffn)),
        d_ff=ffn.d_ff,
        n_cols=product.weight.n_cols,
        activation=EXPERT_ACTIVATIONS.index(ffn.activation),
        gated=int(ffn.gated),
        limit=float(ffn.limit or 0),
        up_offset=float(ffn.up_offset),
    )


def _weights(product: Product) -> dict[str, Any]:
    return {"weight": product.weight, "bias": product.bias}


def _sizes(experts: ExpertsSpec) -> dict[str, Any]:
    return {"n_experts": experts.n_experts, "n_active": experts.n_active}


def _choose(
    ops: Recorder,
    experts: ExpertsSpec,
    layer: Layer,
    work: ExpertBuffers,
    x: Activations,
    n_tokens: Array,
) -> None:
    """The router: which experts each token takes, and the tokens of each expert."""
    [router] = layer.router
    call_product(ops, x, router, work.logits, n_tokens)
    ops.call(
        "route",
        n_tokens=n_tokens,
        logits=work.logits,
        bias=layer.selection_bias,
        gate_scales=layer.gate_scales,
        experts=work.experts,
        gates=work.gates,
        **_sizes(experts),
        scoring=SCORINGS.index(experts.scoring),
        renormalize=int(experts.renormalize),
        scale=float(experts.scale),
    )
    ops.call(
        "group",
        n_tokens=n_tokens,
        experts=work.experts,
        **work.groups,
        **_sizes(experts),
    )
