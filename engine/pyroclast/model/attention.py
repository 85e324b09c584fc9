"""Attention on the paged cache: the calls that record it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.model.calls import head_sizes, new_head_sizes
from pyroclast.model.kv_cache import BLOCK_SIZE, KVCache, value_stride
from pyroclast.model.workspace import AttentionBuffers, LayerBuffers, Workspace
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]


class AttentionCalls:
    """Records the attention of layers on one batch, one cache and one workspace."""

    def __init__(self, batch: Batch, cache: KVCache, work: Workspace) -> None:
        self._batch, self._cache, self._work = batch, cache, work

    def record(
        self,
        ops: Recorder,
        i: int,
        attention: AttentionSpec,
        sinks: Array | None,
        buffers: LayerBuffers,
    ) -> None:
        """From q, k and v of the step's tokens to attn_out."""
        own = buffers.attention
        assert own is not None
        self.rotate(ops, i, attention, own)
        batch, work, out = self._batch, self._work, buffers.attn_out
        ops.call(
            "attention",
            self._cache.dtype,
            n_tokens=batch.n_tokens_at,
            n_seqs=batch.n_seqs_at,
            seq_starts=batch.seq_starts,
            positions=batch.positions,
            block_tables=batch.block_tables,
            **self._arrays(i, own),
            out=out.values,
            out_q8=None if buffers.quantizes_apart else out.q8,
            scratch=work.scratch,
            counters=work.counters,
            **head_sizes(attention),
            **self._page_sizes(attention),
            window=attention.window or 0,
            scale=attention.score_scale,
            softcap=float(attention.softcap or 0),
            sinks=sinks,
            max_splits=work.scratch.shape[1],
            max_split_tokens=work.max_split_tokens,
        )

    def rotate(
        self, ops: Recorder, i: int, attention: AttentionSpec, own: AttentionBuffers
    ) -> None:
        """Rotates q and k, and writes k and v to the cache, unless that is another layer's."""
        batch, temperature = self._batch, attention.temperature
        ops.call(
            "rope",
            self._cache.dtype,
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            seq_index=batch.seq_index,
            block_tables=batch.block_tables,
            table=own.rope_table.out,
            **self._arrays(i, own),
            **new_head_sizes(attention),
            rotary_dim=2 * own.rope_table.half_dim,
            **self._page_sizes(attention),
            temperature=0.0 if temperature is None else temperature.beta,
            temperature_length=1 if temperature is None else temperature.length,
        )

    def _arrays(self, i: int, own: AttentionBuffers) -> dict[str, Array]:
        k_cache, v_cache = self._cache.of_layer(i)
        return {"qkv": own.qkv, "k_cache": k_cache, "v_cache": v_cache}

    def _page_sizes(self, attention: AttentionSpec) -> dict[str, int]:
        """How kernels find a layer's positions in the paged cache."""
        return {
            "block_size": BLOCK_SIZE,
            "max_blocks": self._batch.max_blocks,
            "value_stride": value_stride(attention.head_dim),
        }
