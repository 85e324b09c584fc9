"""One decoder for every family: the forward pass, written once against LayerSpec and recorded.

`record_step` says what a step computes, on arrays of whatever memory they were asked of.  Under a
Recorder it yields the step program: of native kernels, of the NumPy reference (kernels="*=numpy";
how the model itself is tested), or of launches for the GPU.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from pyroclast.model.adapters import Adapters
from pyroclast.model.extras import NO_EXTRAS, StepExtras
from pyroclast.model.hidden import HiddenRows
from pyroclast.model.kv_cache import BLOCK_SIZE, KVCache, value_stride
from pyroclast.model.weights import Layer, Product, Weights
from pyroclast.model.workspace import Activations, LayerBuffers, Workspace
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.attention import SPLIT
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.norm import KINDS as NORM_KINDS
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.registry import get_op

Array = NDArray[Any]


class Decoder:
    """Every array of a step: weights, cache, workspace, and the batch that the caller fills."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        memory: Memory,
        *,
        kv_dtype: str,
        n_blocks: int,
        extras: StepExtras = NO_EXTRAS,
    ) -> None:
        self.config, self.weights, self.batch = config, weights, batch
        self.kv_dtype = kv_dtype
        self.cache = KVCache(config, kv_dtype, n_blocks, memory)
        max_splits = -(-batch.max_blocks * BLOCK_SIZE // SPLIT)
        adapts = extras.adapters is not None
        self.work = Workspace(config, weights, batch, max_splits, memory, keeps_values=adapts)
        self.adapters = Adapters(extras.adapters, config, batch, memory)
        self.hidden = HiddenRows(extras.hidden_layers, config, batch, memory)

    def record_step(self, ops: Recorder) -> None:
        """Embedding, layers, final norm, output head: the rows in logit_rows only."""
        batch, work, weights = self.batch, self.work, self.weights
        config, output = self.config, weights.output
        ops.label = "embedding"
        ops.call(
            "embed",
            weights.token_embd.format,
            n_tokens=batch.n_tokens_at,
            token_ids=batch.token_ids,
            weight=weights.token_embd,
            out=work.x,
            n_cols=config.d_model,
            scale=1.0,
            accumulate=0,
        )
        for table in work.rope_tables.values():
            ops.call(
                "rope_table",
                n_tokens=batch.n_tokens_at,
                positions=batch.positions,
                inv_freq=table.inv_freq,
                out=table.out,
                half_dim=table.half_dim,
                amplitude=1.0,
            )
        for i, (spec, layer) in enumerate(zip(config.layers, weights.layers, strict=True)):
            ops.label = f"layer {i}"
            buffers = work.of_layer(spec, layer)
            self._attention_block(ops, i, spec, layer, buffers)
            self._ffn_block(ops, i, spec, layer, buffers)
            self.hidden.record_layer(ops, i, work.x)
        ops.label = "output"
        head_norm, rows = config.output_norm, batch.logit_rows
        for out in (*self.hidden.final, work.head_in):
            self._norm(ops, weights.output_norm, head_norm, out, batch.n_logits_at, rows)
        self._product(ops, work.head_in, Product(output, 0), work.logits, batch.n_logits_at)

    def _attention_block(
        self, ops: Recorder, i: int, spec: LayerSpec, layer: Layer, buffers: LayerBuffers
    ) -> None:
        """x += wo @ attention(norm(x))."""
        self._norm(ops, layer.attn_norm, spec.norm, buffers.attn_in)
        for product in layer.qkv:
            self._product(ops, buffers.attn_in, product, buffers.qkv)
        self.adapters.record(ops, i, ("wq", "wk", "wv"), buffers.attn_in, buffers.qkv)
        self._rotate(ops, i, spec.attention, buffers)
        self._attend(ops, i, spec.attention, buffers)
        if buffers.quantizes_attention:
            ops.call(
                "quantize",
                n_tokens=self.batch.n_tokens_at,
                x=buffers.attn_out.values,
                out_q8=buffers.attn_out.q8,
                n_cols=spec.attention.q_dim,
            )
        for product in layer.wo:
            self._product(ops, buffers.attn_out, product, self.work.x, accumulate=True)
        self.adapters.record(ops, i, ("wo",), buffers.attn_out, self.work.x)

    def _rotate(
        self, ops: Recorder, i: int, attention: AttentionSpec, buffers: LayerBuffers
    ) -> None:
        """Rotates q and k, and writes k and v to the cache."""
        batch = self.batch
        ops.call(
            "rope",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            seq_index=batch.seq_index,
            block_tables=batch.block_tables,
            table=buffers.rope_table.out,
            **self._heads_and_cache(i, buffers),
            **_head_sizes(attention),
            rotary_dim=attention.head_dim,
            **self._page_sizes(attention),
            temperature=0.0,
            temperature_length=1,
        )

    def _attend(
        self, ops: Recorder, i: int, attention: AttentionSpec, buffers: LayerBuffers
    ) -> None:
        """Reads the cache."""
        batch, work = self.batch, self.work
        ops.call(
            "attention",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            n_seqs=batch.n_seqs_at,
            seq_starts=batch.seq_starts,
            positions=batch.positions,
            block_tables=batch.block_tables,
            **self._heads_and_cache(i, buffers),
            out=buffers.attn_out.values,
            out_q8=None if buffers.quantizes_attention else buffers.attn_out.q8,
            scratch=work.scratch,
            counters=work.counters,
            **_head_sizes(attention),
            **self._page_sizes(attention),
            window=attention.window or 0,
            scale=1 / math.sqrt(attention.head_dim),
            softcap=0.0,
            sinks=None,
            max_splits=work.scratch.shape[1],
            max_split_tokens=work.max_split_tokens,
        )

    def _heads_and_cache(self, i: int, buffers: LayerBuffers) -> dict[str, Array]:
        return {"qkv": buffers.qkv, "k_cache": self.cache.k[i], "v_cache": self.cache.v[i]}

    def _page_sizes(self, attention: AttentionSpec) -> dict[str, int]:
        """How kernels find a layer's positions in the paged cache."""
        return {
            "block_size": BLOCK_SIZE,
            "max_blocks": self.batch.max_blocks,
            "value_stride": value_stride(attention.head_dim),
        }

    def _ffn_block(
        self, ops: Recorder, i: int, spec: LayerSpec, layer: Layer, buffers: LayerBuffers
    ) -> None:
        """x += w_down @ (activation(gate) * up), gate and up being products of norm(x)."""
        self._norm(ops, layer.ffn_norm, spec.norm, buffers.ffn_in)
        adapts = self.adapters.change("w_gate", "w_up")
        if adapts or not self._fused_gate_up(ops, spec.ffn, layer, buffers):
            for product in layer.gate_up:
                self._product(ops, buffers.ffn_in, product, buffers.gate_up)
            self.adapters.record(ops, i, ("w_gate", "w_up"), buffers.ffn_in, buffers.gate_up)
            ops.call(
                "glu",
                n_tokens=self.batch.n_tokens_at,
                gate_up=buffers.gate_up,
                out=buffers.ffn_out.values,
                out_q8=buffers.ffn_out.q8,
                d_ff=spec.ffn.d_ff,
                **activation_arguments(spec.ffn),
                gated=1,
            )
        for product in layer.w_down:
            self._product(ops, buffers.ffn_out, product, self.work.x, accumulate=True)
        self.adapters.record(ops, i, ("w_down",), buffers.ffn_out, self.work.x)

    def _fused_gate_up(
        self, ops: Recorder, ffn: FeedForwardSpec, layer: Layer, buffers: LayerBuffers
    ) -> bool:
        """Notes gate, up and activation as one op where these weights allow it."""
        product, weight = layer.gate_up[0], layer.gate_up[0].weight
        fits = len(layer.gate_up) == 1 and product.bias is None and ffn.d_ff % 16 == 0
        return (
            fits
            and weight.format in get_op("gate_up").formats
            and ops.call_fused(
                "gate_up",
                weight.format,
                n_tokens=self.batch.n_tokens_at,
                x=buffers.ffn_in.of(weight),
                weight=weight,
                out=buffers.ffn_out.values,
                out_q8=buffers.ffn_out.q8,
                d_ff=ffn.d_ff,
                n_cols=weight.n_cols,
                **activation_arguments(ffn),
            )
        )

    def _norm(
        self,
        ops: Recorder,
        weight: Array,
        spec: NormSpec,
        out: Activations,
        n_tokens: Array | None = None,
        rows: Array | None = None,
    ) -> None:
        ops.call(
            "norm",
            n_tokens=self.batch.n_tokens_at if n_tokens is None else n_tokens,
            rows=rows,
            x=self.work.x,
            weight=weight,
            bias=None,
            out=out.values,
            out_q8=out.q8,
            d_model=self.config.d_model,
            eps=spec.eps,
            kind=NORM_KINDS.index(spec.kind),
        )

    def _product(
        self,
        ops: Recorder,
        x: Activations,
        product: Product,
        out: Array,
        n_tokens: Array | None = None,
        accumulate: bool = False,
    ) -> None:
        weight = product.weight
        ops.call(
            "matmul",
            weight.format,
            n_tokens=self.batch.n_tokens_at if n_tokens is None else n_tokens,
            x=x.of(weight),
            weight=weight,
            bias=product.bias,
            out=out[:, product.row_offset :],
            n_rows=weight.n_rows,
            n_cols=weight.n_cols,
            out_stride=out.shape[1],
            accumulate=int(accumulate),
        )


def _head_sizes(attention: AttentionSpec) -> dict[str, int]:
    return {
        "n_heads": attention.n_heads,
        "n_kv_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
    }


def activation_arguments(ffn: FeedForwardSpec) -> dict[str, Any]:
    """The last argument of `glu` and `gate_up`: which function the gate goes through."""
    return {"activation": ACTIVATIONS.index(ffn.activation)}  # check_supported refuses others
