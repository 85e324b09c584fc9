"""What a step does for a head that predicts further tokens: the head's keys and values of the
step's tokens.

A draft attends to all positions before it, so the head has to have read them: prompts as well.  Its
layer's keys and values lie in the model's cache, as those of one more layer, and depend on nothing
behind their position; so prefix cache, preemption and drafts that were wrong need nothing new.  The
head reads the state of the position before.  What its product makes of that state is kept like the
state of a recurrent layer, in the slots of `pyroclast.engine.state_slots`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.model.attention import AttentionCalls
from pyroclast.model.calls import call_embed, call_norm, call_product, call_qk_norm
from pyroclast.model.packer import Product
from pyroclast.model.state_cache import StateCache
from pyroclast.model.weights import DraftWeights, Weights
from pyroclast.model.workspace import Activations, Workspace
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.conv1d import KINDS
from pyroclast_kernels.memory import Memory, Weight
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]


class DraftInput:
    """Records the two halves of what the head's layer reads, on a batch's tokens."""

    def __init__(
        self,
        config: ModelConfig,
        draft: DraftWeights,
        token_embd: Weight,
        batch: Batch,
        memory: Memory,
    ) -> None:
        self._config, self._draft, self._token_embd = config, draft, token_embd
        self._batch = batch
        readers = [draft.of_token.weight, draft.of_state.weight]
        n, d_model = batch.max_batch_tokens, config.d_model
        self._normed = Activations.zeros(n, d_model, readers, memory, keep=False)
        self._embedded = memory.zeros((n, d_model), np.float32)

    def record_state(self, ops: Recorder, state: Array, out: Array, first_column: int = 0) -> None:
        """Columns of out, from the first one on = the product of the normed states."""
        draft, n = self._draft, self._batch.n_tokens_at
        x = self._normed.part(state.shape[1], [draft.of_state.weight])
        call_norm(ops, state, draft.state_norm, self._config.output_norm, x, n)
        call_product(ops, x, Product(draft.of_state.weight, first_column), out, n)

    def record_token(self, ops: Recorder, out: Array) -> None:
        """out += the product of the normed embeddings."""
        draft, batch, n = self._draft, self._batch, self._batch.n_tokens_at
        scale = self._config.embedding_scale
        call_embed(ops, self._token_embd, batch.token_ids, self._embedded, n, scale=scale)
        x = self._normed.part(out.shape[1], [draft.of_token.weight])
        call_norm(ops, self._embedded, draft.token_norm, self._config.output_norm, x, n)
        call_product(ops, x, draft.of_token, out, n, accumulate=True)


def draft_keys(
    config: ModelConfig, weights: Weights, batch: Batch, states: StateCache, memory: Memory
) -> DraftKeys | None:
    """None without such a head, which then costs nothing."""
    if weights.draft is None:
        return None
    return DraftKeys(config, weights, weights.draft, batch, states, memory)


class DraftKeys:
    """The head's buffers for the steps of the model.  On the host only."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        draft: DraftWeights,
        batch: Batch,
        states: StateCache,
        memory: Memory,
    ) -> None:
        assert not memory.on_gpu, "DraftOptions refuses it"
        self._config, self._weights, self._draft, self._batch = config, weights, draft, batch
        self._input = DraftInput(config, draft, weights.token_embd, batch, memory)
        self._kept = states.states[config.n_layers][0]
        n, d_model = batch.max_batch_tokens, config.d_model
        self._states = memory.zeros((n, d_model), np.float32)
        self._x = memory.zeros((n, d_model), np.float32)
        # A convolution whose filter is (1, 0) gives each token what the one before it has.  It
        # multiplies by its first two thirds, which therefore are ones.
        self._mixed = memory.zeros((n, 3 * d_model), np.float32)
        self._mixed[:, : 2 * d_model] = 1
        filters = np.zeros((2, d_model), np.float32)
        filters[0] = 1
        self._filters = memory.constant(filters)

    def record(self, ops: Recorder, work: Workspace, attention: AttentionCalls) -> None:
        """work.x holds the states behind the last layer."""
        config, draft, n = self._config, self._draft, self._batch.n_tokens_at
        spec, layer = config.draft_layer, draft.layer
        assert spec is not None and layer.attn_norm is not None
        ops.label = "draft head"
        final = Activations(self._states, None)
        call_norm(ops, work.x, self._weights.output_norm, config.output_norm, final, n)
        self._input.record_state(ops, self._states, self._mixed, 2 * config.d_model)
        self._shift(ops)
        self._input.record_token(ops, self._x)
        buffers = work.of_layer(spec, layer)
        own = buffers.attention
        assert own is not None
        call_norm(ops, self._x, layer.attn_norm, spec.norm, buffers.attn_in, n)
        for product in layer.qkv:
            call_product(ops, buffers.attn_in, product, own.qkv, n)
        if layer.qk_norm is not None:
            call_qk_norm(ops, spec.attention, layer.qk_norm, own.qkv, n)
        attention.rotate(ops, config.n_layers, spec.attention, own)

    def _shift(self, ops: Recorder) -> None:
        """x = what the state before each token gave; that of the last one is kept."""
        batch, d_model = self._batch, self._config.d_model
        ops.call(
            "conv1d",
            n_seqs=batch.n_seqs_at,
            seq_starts=batch.seq_starts,
            slots_in=batch.slots_in,
            slots_out=batch.slots_out,
            x=self._mixed,
            weight=self._filters,
            bias=None,
            state=self._kept,
            out=self._x,
            out_q8=None,
            n_channels=d_model,
            width=2,
            x_stride=3 * d_model,
            kind=KINDS.index("gated"),
        )
