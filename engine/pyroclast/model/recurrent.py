"""Recurrent mixers: their buffers, their states, and the calls that record them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.recurrent import (
    GatedDeltaSpec,
    Mamba2Spec,
    RecurrentSpec,
    ShortConvSpec,
)
from pyroclast.model.calls import call_product, call_quantize
from pyroclast.model.layer_weights import Layer
from pyroclast.model.recurrent_weights import RecurrentWeights
from pyroclast.model.state_cache import StateCache
from pyroclast.model.workspace import Activations, LayerBuffers, as_rows
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.conv1d import KINDS as CONV_KINDS
from pyroclast_kernels.gated_norm import KINDS as NORM_KINDS
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]

_L2_EPS = 1e-6  # of q and k, in every published model


@dataclass(frozen=True)
class RecurrentBuffers:
    """Of a step: mixed, what the products of x give; and of mixers with heads convolved, what the
    convolution makes of its channels, and values, what the heads read out.  A row for each token.
    """

    mixed: Array
    convolved: Array
    values: Array

    @classmethod
    def zeros(cls, config: ModelConfig, n: int, memory: Memory) -> RecurrentBuffers:
        """For steps of up to n tokens, wide enough for every layer."""
        mixers = [spec.recurrent for spec in config.layers if spec.recurrent is not None]
        headed = [mixer for mixer in mixers if not isinstance(mixer, ShortConvSpec)]
        widths = (
            max((mixer.width for mixer in mixers), default=0),
            max((mixer.n_channels for mixer in headed), default=0),
            max((mixer.value_dim for mixer in headed), default=0),
        )
        return cls(*(memory.zeros((n, width), np.float32) for width in widths))


def recurrent_ops(config: ModelConfig) -> tuple[str, ...]:
    """The ops that only layers with a state or a gate call."""
    mixers = [spec.recurrent for spec in config.layers if spec.recurrent is not None]
    found: tuple[str, ...] = ("conv1d",) if mixers else ()
    if any(isinstance(mixer, GatedDeltaSpec) for mixer in mixers):
        found += ("l2_norm", "delta_rule", "gated_norm")
    if any(isinstance(mixer, Mamba2Spec) for mixer in mixers):
        found += ("ssm", "gated_norm")
    gated = any(attention.gate for attention in config.attentions.values())
    return tuple(dict.fromkeys(found + (("sigmoid_gate",) if gated else ())))


class RecurrentCalls:
    """Records the mixers of recurrent layers on one batch and one state cache."""

    def __init__(
        self, config: ModelConfig, batch: Batch, states: StateCache, memory: Memory
    ) -> None:
        self._batch, self._states = batch, states
        self._buffers = RecurrentBuffers.zeros(config, batch.max_batch_tokens, memory)

    def record(
        self, ops: Recorder, i: int, spec: RecurrentSpec, layer: Layer, buffers: LayerBuffers
    ) -> None:
        """From attn_in to attn_out, which the last product of the mixer reads."""
        mixed = as_rows(self._buffers.mixed, spec.width)
        for product in layer.qkv:
            call_product(ops, buffers.attn_in, product, mixed, self._batch.n_tokens_at)
        out = buffers.attn_out
        if isinstance(spec, ShortConvSpec):
            self._convolve(ops, i, spec, layer, mixed, out)
            return
        direct = Activations(out.values, None) if buffers.quantizes_apart else out
        if isinstance(spec, Mamba2Spec):
            self._mamba2(ops, i, spec, layer, mixed, direct)
        else:
            self._delta_rule(ops, i, spec, layer, mixed, direct)
        if buffers.quantizes_apart:
            call_quantize(ops, out, self._batch.n_tokens_at)

    def _convolve(
        self,
        ops: Recorder,
        i: int,
        spec: RecurrentSpec,
        layer: Layer,
        mixed: Array,
        out: Activations,
    ) -> None:
        assert layer.recurrent is not None
        kind = "gated" if isinstance(spec, ShortConvSpec) else "silu"
        ops.call(
            "conv1d",
            **self._slots(),
            x=mixed,
            weight=layer.recurrent.filters,
            bias=layer.recurrent.bias,
            state=self._states.states[i][0],
            out=out.values,
            out_q8=out.q8,
            n_channels=spec.n_channels,
            width=spec.kernel,
            x_stride=spec.width,
            kind=CONV_KINDS.index(kind),
        )

    def _mamba2(
        self,
        ops: Recorder,
        i: int,
        spec: Mamba2Spec,
        layer: Layer,
        mixed: Array,
        out: Activations,
    ) -> None:
        """mixed has, side by side, z, the channels of the convolution and the steps."""
        weights, n_values = layer.recurrent, spec.value_dim
        assert weights is not None
        xbc = as_rows(self._buffers.convolved, spec.n_channels)
        values = as_rows(self._buffers.values, n_values)
        self._convolve(ops, i, spec, layer, mixed[:, n_values:], Activations(xbc, None))
        ops.call(
            "ssm",
            **self._slots(),
            xbc=xbc,
            dt=mixed[:, n_values + spec.n_channels :],
            a=weights.decay,
            d=weights.skip,
            dt_bias=weights.dt_bias,
            state=self._states.states[i][1],
            out=values,
            n_heads=spec.n_heads,
            head_dim=spec.head_dim,
            n_groups=spec.n_groups,
            d_state=spec.d_state,
            dt_stride=spec.width,
            dt_min=float(spec.dt_min),
            dt_max=float(spec.dt_max),
        )
        sizes = spec.n_groups, spec.norm_width, spec.norm_width
        self._norm(ops, spec, values, mixed, weights, out, sizes, "gate_first")

    def _delta_rule(
        self,
        ops: Recorder,
        i: int,
        spec: GatedDeltaSpec,
        layer: Layer,
        mixed: Array,
        out: Activations,
    ) -> None:
        weights, n = layer.recurrent, self._batch.n_tokens_at
        assert weights is not None
        qkv = as_rows(self._buffers.convolved, spec.n_channels)
        values = as_rows(self._buffers.values, spec.value_dim)
        self._convolve(ops, i, spec, layer, mixed, Activations(qkv, None))
        ops.call(
            "l2_norm",
            n_tokens=n,
            qkv=qkv,
            n_heads=spec.n_k_heads,
            head_dim=spec.k_head_dim,
            row_stride=spec.n_channels,
            eps=_L2_EPS,
            q_scale=spec.k_head_dim**-0.5,
        )
        self._learn(ops, i, spec, weights, mixed, (qkv, values))
        gate, sizes = mixed[:, spec.n_channels :], (spec.n_v_heads, spec.v_head_dim, 0)
        self._norm(ops, spec, values, gate, weights, out, sizes, "norm_first")

    def _norm(
        self,
        ops: Recorder,
        spec: GatedDeltaSpec | Mamba2Spec,
        values: Array,
        gate: Array,
        weights: RecurrentWeights,
        out: Activations,
        sizes: tuple[int, int, int],
        kind: str,
    ) -> None:
        """The norm of what the heads read out, with a gate.  sizes: how many are normed apart, the
        width of each, and how far apart their weights lie."""
        n_groups, width, weight_stride = sizes
        ops.call(
            "gated_norm",
            n_tokens=self._batch.n_tokens_at,
            x=values,
            gate=gate,
            weight=weights.norm,
            out=out.values,
            out_q8=out.q8,
            n_groups=n_groups,
            width=width,
            gate_stride=spec.width,
            weight_stride=weight_stride,
            eps=spec.norm_eps,
            kind=NORM_KINDS.index(kind),
        )

    def _learn(
        self,
        ops: Recorder,
        i: int,
        spec: GatedDeltaSpec,
        weights: RecurrentWeights,
        mixed: Array,
        qkv_and_values: tuple[Array, Array],
    ) -> None:
        """The rule itself: from q, k and v to what each head reads out."""
        qkv, values = qkv_and_values
        beta = spec.n_channels + spec.value_dim
        ops.call(
            "delta_rule",
            **self._slots(),
            qkv=qkv,
            alpha=mixed[:, beta + spec.n_v_heads :],
            beta=mixed[:, beta:],
            a=weights.decay,
            dt_bias=weights.dt_bias,
            state=self._states.states[i][1],
            out=values,
            n_k_heads=spec.n_k_heads,
            n_v_heads=spec.n_v_heads,
            k_dim=spec.k_head_dim,
            v_dim=spec.v_head_dim,
            gate_stride=spec.width,
            tiled=int(spec.tiled),
        )

    def _slots(self) -> dict[str, Any]:
        """Where the states of the step's sequences lie."""
        batch = self._batch
        return {
            "n_seqs": batch.n_seqs_at,
            "seq_starts": batch.seq_starts,
            "slots_in": batch.slots_in,
            "slots_out": batch.slots_out,
        }
