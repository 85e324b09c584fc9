"""One decoder for every family: the forward pass, written once against ops and recorded.

`record_step` says what a step computes, on arrays of whatever memory they were asked of.  Under a
Recorder it yields the step program: of native kernels, of the NumPy reference (kernels="*=numpy";
how the model itself is tested), or of launches for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig, inv_freq
from pyroclast.model import hidden
from pyroclast.model.kv_cache import BLOCK_SIZE, KVCache, value_stride
from pyroclast.model.weights import Layer, Product, Weights
from pyroclast.model.workspace import Activations, Workspace
from pyroclast_kernels.attention import SPLIT
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
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
        hidden_layers: Sequence[hidden.HiddenLayer] = (),
    ) -> None:
        self.config, self.weights, self.batch = config, weights, batch
        self.kv_dtype = kv_dtype
        self.cache = KVCache(config, kv_dtype, n_blocks, memory)
        max_splits = -(-batch.max_blocks * BLOCK_SIZE // SPLIT)
        self.work = Workspace(config, weights, batch, max_splits, memory)
        self.hidden = hidden.HiddenRows(
            hidden_layers, config.n_layers, config.d_model, batch, memory
        )
        self.inv_freq = memory.constant(np.ascontiguousarray(inv_freq(config), np.float32))

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
        )
        ops.call(
            "rope_table",
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            inv_freq=self.inv_freq,
            out=work.rope_table,
            half_dim=config.head_dim // 2,
        )
        for i, layer in enumerate(weights.layers):
            ops.label = f"layer {i}"
            self._attention_block(ops, i, layer)
            self._ffn_block(ops, layer)
            self.hidden.record_layer(ops, i, work.x)
        ops.label = "output"
        for out in self.hidden.final:
            self._norm(ops, weights.output_norm, out, batch.n_logits_at, batch.logit_rows)
        self._norm(ops, weights.output_norm, work.head_in, batch.n_logits_at, batch.logit_rows)
        self._product(ops, work.head_in, Product(output, 0), work.logits, batch.n_logits_at)

    def _attention_block(self, ops: Recorder, i: int, layer: Layer) -> None:
        batch, work, config = self.batch, self.work, self.config
        self._norm(ops, layer.attn_norm, work.attn_in)
        for product in layer.qkv:
            self._product(ops, work.attn_in, product, work.qkv)
        paged = {
            "qkv": work.qkv,
            "k_cache": self.cache.k[i],
            "v_cache": self.cache.v[i],
        }
        heads = {
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "block_size": BLOCK_SIZE,
            "max_blocks": batch.max_blocks,
            "value_stride": value_stride(config.head_dim),
        }
        ops.call(
            "rope",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            seq_index=batch.seq_index,
            block_tables=batch.block_tables,
            table=work.rope_table,
            **paged,
            **heads,
        )
        ops.call(
            "attention",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            n_seqs=batch.n_seqs_at,
            seq_starts=batch.seq_starts,
            positions=batch.positions,
            block_tables=batch.block_tables,
            **paged,
            out=work.attn_out.values,
            out_q8=None if work.quantizes_attention else work.attn_out.q8,
            scratch=work.scratch,
            counters=work.counters,
            **heads,
            window=config.sliding_window or 0,
            max_splits=work.scratch.shape[1],
            max_split_tokens=work.max_split_tokens,
        )
        if work.quantizes_attention:
            ops.call(
                "quantize",
                n_tokens=batch.n_tokens_at,
                x=work.attn_out.values,
                out_q8=work.attn_out.q8,
                n_cols=config.n_heads * config.head_dim,
            )
        for product in layer.wo:
            self._product(ops, work.attn_out, product, work.x, accumulate=True)

    def _ffn_block(self, ops: Recorder, layer: Layer) -> None:
        batch, work = self.batch, self.work
        self._norm(ops, layer.ffn_norm, work.ffn_in)
        if not self._fused_gate_up(ops, layer):
            for product in layer.gate_up:
                self._product(ops, work.ffn_in, product, work.gate_up)
            ops.call(
                "swiglu",
                n_tokens=batch.n_tokens_at,
                gate_up=work.gate_up,
                out=work.ffn_out.values,
                out_q8=work.ffn_out.q8,
                d_ff=self.config.d_ff,
            )
        for product in layer.w_down:
            self._product(ops, work.ffn_out, product, work.x, accumulate=True)

    def _fused_gate_up(self, ops: Recorder, layer: Layer) -> bool:
        """Notes gate, up and SwiGLU as one op where these weights allow it."""
        work, product, d_ff = self.work, layer.gate_up[0], self.config.d_ff
        weight = product.weight
        fits = len(layer.gate_up) == 1 and product.bias is None and d_ff % 16 == 0
        return (
            fits
            and weight.format in get_op("gate_up").formats
            and ops.call_fused(
                "gate_up",
                weight.format,
                n_tokens=self.batch.n_tokens_at,
                x=work.ffn_in.of(weight),
                weight=weight,
                out=work.ffn_out.values,
                out_q8=work.ffn_out.q8,
                d_ff=d_ff,
                n_cols=weight.n_cols,
            )
        )

    def _norm(
        self,
        ops: Recorder,
        weight: Array,
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
            out=out.values,
            out_q8=out.q8,
            d_model=self.config.d_model,
            eps=self.config.norm_eps,
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
