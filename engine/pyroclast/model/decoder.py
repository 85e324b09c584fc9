"""One decoder for every family: the forward pass, written once against LayerSpec and recorded.

`record_step` says what a step computes, on arrays of whatever memory they were asked of.  Under a
Recorder it yields the step program: of native kernels, of the NumPy reference (kernels="*=numpy";
how the model itself is tested), or of launches for the GPU.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec
from pyroclast.model.adapters import Adapters
from pyroclast.model.attention import AttentionCalls
from pyroclast.model.calls import (
    activation_of,
    call_embed,
    call_gate,
    call_norm,
    call_product,
    call_qk_norm,
    call_quantize,
    call_residual,
    call_sparse_gate,
)
from pyroclast.model.draft_keys import draft_keys
from pyroclast.model.experts import call_experts, call_experts_apart, call_total, expert_buffers
from pyroclast.model.extras import NO_EXTRAS, StepExtras
from pyroclast.model.hidden import HiddenRows
from pyroclast.model.kv_cache import BLOCK_SIZE, KVCache
from pyroclast.model.laurel import Laurel
from pyroclast.model.layer_input_calls import LayerInputs
from pyroclast.model.layer_weights import Layer
from pyroclast.model.packer import Norm, Product
from pyroclast.model.recurrent import RecurrentCalls
from pyroclast.model.state_cache import StateCache
from pyroclast.model.streams import Streams
from pyroclast.model.weights import Weights
from pyroclast.model.workspace import Activations, LayerBuffers, Workspace
from pyroclast_kernels.attention import SPLIT
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.registry import get_op

Array = NDArray[Any]


class Decoder:
    """Every array of a step: weights, cache, workspace, and the batch that the caller fills.
    max_seq_len is the context in use.  cache: keys and values that belong to another decoder."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        memory: Memory,
        *,
        kv_dtype: str,
        n_blocks: int,
        n_slots: int,
        max_seq_len: int,
        extras: StepExtras = NO_EXTRAS,
        cache: KVCache | None = None,
    ) -> None:
        self.config, self.weights, self.batch = config, weights, batch
        self.cache = cache or KVCache(config, kv_dtype, n_blocks, memory)
        self.states = StateCache(config, n_slots, memory, batch.max_seqs)
        max_splits = -(-batch.max_blocks * BLOCK_SIZE // SPLIT)
        adapts = extras.adapters is not None
        self.work = Workspace(
            config,
            weights,
            batch,
            max_splits,
            memory,
            max_seq_len=max_seq_len,
            keeps_values=adapts,
        )
        self.attention = AttentionCalls(batch, self.cache, self.work)
        self.streams = Streams(config, weights, batch, self.work.streams, memory)
        self.inputs = LayerInputs(config, weights, batch, self.work.x, self.streams, memory)
        self.laurel = Laurel(config, weights, batch, self.work.x, memory)
        self.recurrent = RecurrentCalls(config, batch, self.states, memory)
        n_tokens = batch.max_batch_tokens
        self.experts = expert_buffers(config, weights.layers, n_tokens, memory)
        self.adapters = Adapters(extras.adapters, config, batch, memory)
        self.hidden = HiddenRows(extras.hidden_layers, config, batch, memory)
        self.draft_keys = draft_keys(config, weights, batch, self.states, memory)

    def record_step(self, ops: Recorder) -> None:
        """Embedding, layers, final norm, output head: the rows in logit_rows only."""
        work, weights = self.work, self.weights
        ops.label = "embedding"
        self._embed(ops)
        for table in work.rope_tables.values():
            if not table.half_dim:
                continue
            ops.call(
                "rope_table",
                n_tokens=self.batch.n_tokens_at,
                positions=self.batch.positions,
                inv_freq=table.inv_freq,
                out=table.out,
                half_dim=table.half_dim,
                amplitude=table.amplitude,
            )
        for i, (spec, layer) in enumerate(zip(self.config.layers, weights.layers, strict=True)):
            ops.label = f"layer {i}"
            buffers = work.of_layer(spec, layer)
            self.streams.record_predict(ops, i)
            if spec.mixer is not None:
                self._mixer_block(ops, i, spec, layer, buffers)
            if spec.ffn is not None:
                self._ffn_block(ops, i, spec, spec.ffn, layer, buffers)
            self.streams.record_correct(ops, i)
            self.inputs.record_layer(ops, i, layer.out_scale)
            if i == self.config.n_layers - 1:
                self.streams.record_last(ops)
            self.hidden.record_layer(ops, i, work.x)
        ops.label = "output"
        self._output(ops)
        if self.draft_keys is not None:
            self.draft_keys.record(ops, work, self.attention)

    def _embed(self, ops: Recorder) -> None:
        """x = the tokens' rows, and those of their positions where these are learned."""
        batch, weights, x = self.batch, self.weights, self.work.x
        scale, n = self.config.embedding_scale, batch.n_tokens_at
        call_embed(ops, weights.token_embd, batch.token_ids, x, n, scale=scale)
        if weights.position_embd is not None:
            call_embed(ops, weights.position_embd, batch.positions, x, n, accumulate=True)
        self.inputs.record(ops)
        self.streams.record_first(ops)

    def _output(self, ops: Recorder) -> None:
        """The final norm and the output head."""
        batch, work, config = self.batch, self.work, self.config
        n, rows, norm = batch.n_logits_at, batch.logit_rows, self.weights.output_norm
        for out in (*self.hidden.final, work.head_in):
            call_norm(ops, work.x, norm, config.output_norm, out, n, rows)
        call_product(ops, work.head_in, Product(self.weights.output, 0), work.logits, n)
        if config.logit_scale != 1 or config.logit_softcap is not None:
            ops.call(
                "scale_logits",
                n_tokens=n,
                logits=work.logits,
                n_cols=config.vocab_size,
                scale=float(config.logit_scale),
                softcap=float(config.logit_softcap or 0),
            )

    def _mixer_block(
        self, ops: Recorder, i: int, spec: LayerSpec, layer: Layer, buffers: LayerBuffers
    ) -> None:
        """x += the last product of attention, or of a recurrent mixer, with norms before, after, or
        both."""
        self._block_in(ops, spec, layer.attn_norm, buffers.attn_in)
        self.laurel.record_products(ops, spec, layer, buffers.attn_in)
        if spec.recurrent is not None:
            self.recurrent.record(ops, i, spec.recurrent, layer, buffers)
            last = spec.recurrent.output
        else:
            self._attend(ops, i, spec.attention, layer, buffers)
            last = "wo"
        added, norm = buffers.added, layer.attn_norm_after
        self._last_products(ops, i, last, layer.wo, buffers.attn_out, added)
        if added is not self.work.x:
            call_residual(ops, self.work.x, added, norm, spec, self.batch.n_tokens_at)
        self.laurel.record_sum(ops, spec, layer, buffers.attn_in)

    def _attend(
        self,
        ops: Recorder,
        i: int,
        attention: AttentionSpec,
        layer: Layer,
        buffers: LayerBuffers,
    ) -> None:
        """Attention from attn_in to attn_out."""
        n, own = self.batch.n_tokens_at, buffers.attention
        assert own is not None
        for product in layer.qkv:
            call_product(ops, buffers.attn_in, product, own.qkv, n)
        self.adapters.record(ops, i, attention.inputs, buffers.attn_in, own.qkv)
        if layer.qk_norm is not None:
            call_qk_norm(ops, attention, layer.qk_norm, own.qkv, n)
        self.attention.record(ops, i, attention, layer.sinks, buffers)
        if own.gate is not None:
            for product in layer.gate:
                call_product(ops, buffers.attn_in, product, own.gate, n)
            call_gate(ops, buffers.attn_out, own.gate, n)
        elif buffers.quantizes_apart:
            call_quantize(ops, buffers.attn_out, n)

    def _block_in(
        self, ops: Recorder, spec: LayerSpec, norm: Norm | None, out: Activations
    ) -> None:
        """A norm of x; where there is none, x itself is what products read."""
        if norm is not None:
            call_norm(ops, self.work.x, norm, spec.norm, out, self.batch.n_tokens_at)
        elif out.q8 is not None:
            call_quantize(ops, out, self.batch.n_tokens_at)

    def _last_products(
        self,
        ops: Recorder,
        i: int,
        name: str,
        products: tuple[Product, ...],
        x: Activations,
        out: Array,
    ) -> None:
        """The last product of a block, `name`: added to the state, or alone in room of its own."""
        adds = out is self.work.x
        for product in products:
            call_product(ops, x, product, out, self.batch.n_tokens_at, accumulate=adds)
        self.adapters.record(ops, i, (name,), x, out)

    def _ffn_block(
        self,
        ops: Recorder,
        i: int,
        spec: LayerSpec,
        ffn: FeedForwardSpec,
        layer: Layer,
        buffers: LayerBuffers,
    ) -> None:
        """x += w_down @ (activation(gate) * up), gate and up being products of x, with norms
        before, after, or both; without a gate w_down @ activation(up).  Or that of some experts,
        and of one that all tokens share."""
        n, x, work, apart = self.batch.n_tokens_at, self.work.x, self.experts.get(ffn), False
        if work is not None and layer.expert_norms is not None:
            apart = True
            call_experts_apart(ops, spec, ffn, layer, work, x, buffers.ffn_in, n)
        self._block_in(ops, spec, layer.ffn_norm, buffers.ffn_in)
        if work is not None and not apart:
            call_experts(ops, ffn, spec.residual_scale, layer, work, buffers.ffn_in, x, n)
        if not ffn.dense_d_ff:
            return
        self._gate_and_up(ops, i, ffn, layer, buffers)
        added, norm = buffers.added, layer.ffn_norm_after
        self._last_products(ops, i, "w_down", layer.w_down, buffers.ffn_out, added)
        if work is not None and apart:
            added = call_total(ops, spec, layer, work, added, n)
        if added is not x:
            x_scale = None if self.inputs.is_there else layer.out_scale  # which comes last
            call_residual(ops, x, added, norm, spec, n, x_scale)

    def _gate_and_up(
        self, ops: Recorder, i: int, ffn: FeedForwardSpec, layer: Layer, buffers: LayerBuffers
    ) -> None:
        """From ffn_in to ffn_out: the first products and the activation."""
        n = self.batch.n_tokens_at
        alone = ffn.sparsity is None and not self.adapters.change(*ffn.inputs)
        if alone and self._fused_gate_up(ops, ffn, layer, buffers):
            return
        for product in layer.gate_up:
            call_product(ops, buffers.ffn_in, product, buffers.gate_up, n)
        self.adapters.record(ops, i, ffn.inputs, buffers.ffn_in, buffers.gate_up)
        if ffn.sparsity is not None:
            call_sparse_gate(ops, ffn, buffers.gate_up, n)
        ops.call(
            "glu",
            n_tokens=n,
            gate_up=buffers.gate_up,
            out=buffers.ffn_out.values,
            out_q8=buffers.ffn_out.q8,
            d_ff=ffn.dense_d_ff,
            activation=activation_of(ffn),
            gated=int(ffn.gated),
        )

    def _fused_gate_up(
        self, ops: Recorder, ffn: FeedForwardSpec, layer: Layer, buffers: LayerBuffers
    ) -> bool:
        """Notes gate, up and activation as one op where these weights allow it."""
        product, weight = layer.gate_up[0], layer.gate_up[0].weight
        fits = ffn.gated and len(layer.gate_up) == 1 and product.bias is None
        return (
            fits
            and ffn.dense_d_ff % 16 == 0
            and weight.format in get_op("gate_up").formats
            and ops.call_fused(
                "gate_up",
                weight.format,
                n_tokens=self.batch.n_tokens_at,
                x=buffers.ffn_in.of(weight),
                weight=weight,
                out=buffers.ffn_out.values,
                out_q8=buffers.ffn_out.q8,
                d_ff=ffn.dense_d_ff,
                n_cols=weight.n_cols,
                activation=activation_of(ffn),
            )
        )
