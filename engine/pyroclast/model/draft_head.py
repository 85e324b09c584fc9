"""A head that predicts further tokens, as a small model of its own: the layer, the norm and the
output head that `families.draft_head` describes, on the kernels and the cache of its model.

A step takes a token of each of some texts.  It reads the keys and values that the model's steps
have left for it (`draft_keys`), and writes its own of that token, which the model's next step
writes again.  No weight is loaded twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import RequestError
from pyroclast.model.decoder import Decoder
from pyroclast.model.device import kernel_errors
from pyroclast.model.draft_keys import DraftInput
from pyroclast.model.extras import StepExtras
from pyroclast.model.hidden import FINAL
from pyroclast.model.load_plan import Plan
from pyroclast.model.weights import Weights
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Program, Recorder

if TYPE_CHECKING:
    from pyroclast.families.config import ModelConfig


def check_has_head(config: ModelConfig, name: str) -> None:
    """RequestError, which says what drafts the model can have, unless it has such a head."""
    if config.draft_layer is None:
        raise RequestError(
            f"{name} has no head that predicts further tokens, which "
            'speculation="mtp" needs; it can have drafts from its own text (speculation="suffix") '
            "and of a second model (LLM(..., draft=MODEL))"
        )


def draft_head(decoder: Decoder, plan: Plan, memory: Memory, executor: Any) -> DraftHead | None:
    """The head of a model that was loaded with one; None for others."""
    if decoder.config.draft_layer is None:
        return None
    return DraftHead(decoder, plan, memory, executor)


class DraftHead:
    """Fill `batch`, one token of each sequence, and call forward().

    batch.slots_in says where what is before the token comes from: the slot of the text's state, as
    the model's steps left it, or row n_slots + i, where the step before put what its sequence i
    goes on with.  batch.block_tables has the text's blocks of the model's cache."""

    def __init__(self, model: Decoder, plan: Plan, memory: Memory, executor: Any) -> None:
        self.max_seqs = self.max_batch_tokens = self.max_logits = plan.max_seqs
        self.max_seq_len, self.n_slots, self.memory = plan.max_seq_len, plan.n_slots, memory
        self.n_threads = plan.n_threads if executor is not None else 1
        self._selection, self._executor = plan.selection, executor
        self.batch = Batch(plan.max_seqs, plan.max_seqs, plan.max_blocks, plan.max_seqs, memory)
        self._decoder = _HeadDecoder(model, self.batch, memory, plan)
        draft = model.weights.draft
        assert draft is not None
        inputs = draft.of_token, draft.of_state
        self._n_input_bytes = sum(product.weight.n_bytes for product in inputs)
        recorder = Recorder(plan.selection)
        self._decoder.record_step(recorder)
        self._calls = recorder.calls
        self._program: Program | None = None

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 (max_logits, vocab_size), of which the first batch.n_logits rows hold."""
        found: NDArray[np.float32] = self._decoder.work.logits
        return found

    @property
    def weight_bytes(self) -> int:
        """Weight bytes that a step reads."""
        return self._n_input_bytes + self._decoder.weights.step_bytes

    def attach_sampler(self, **arguments: Any) -> None:
        """Ends each step with the op `sample`: its arguments by name, logits excepted."""
        recorder = Recorder(self._selection)
        with kernel_errors():
            recorder.call("sample", logits=self.logits, **arguments)
        self._program = Program(self._calls + recorder.calls, self._executor)

    def forward(self, sample: bool = True) -> None:
        """One step over what `batch` holds: writes the cache and the logits, and samples."""
        assert sample and self._program is not None, "a sampler has to be attached"
        self._program.run()

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears the head's part of cache blocks that may hold a NaN."""
        self._decoder.cache.zero_blocks(block_ids)

    def close(self) -> None:
        """Lets go of the model's arrays; harmless when repeated."""
        if self._calls:
            if self._program is not None:
                self._program.close()
            self._calls, self._program, self._executor = [], None, None
            del self._decoder


class _HeadDecoder(Decoder):
    """A decoder of the head's one layer, with another input, and whose final state is kept."""

    def __init__(self, model: Decoder, batch: Batch, memory: Memory, plan: Plan) -> None:
        config, weights, draft = model.config, model.weights, model.weights.draft
        assert config.draft_layer is not None and draft is not None
        super().__init__(
            replace(config, layers=(config.draft_layer,), draft_layer=None),
            Weights(
                weights.token_embd,
                position_embd=None,
                inputs=None,
                streams=None,
                layers=(draft.layer,),
                output_norm=draft.output_norm,
                output=weights.output,
            ),
            batch,
            memory,
            kv_dtype=plan.kv_dtype,
            n_blocks=plan.n_blocks,
            n_slots=0,
            max_seq_len=plan.max_seq_len,
            extras=StepExtras(hidden_layers=(FINAL,)),
            cache=model.cache.only(config.n_layers),
        )
        self._input = DraftInput(config, draft, weights.token_embd, batch, memory)
        kept = model.states.states[config.n_layers][0]
        self._kept, self._own = kept[:, 0], kept[plan.n_slots :, 0]

    def _embed(self, ops: Recorder) -> None:
        """x = what the state before gave, and what the token gives."""
        batch, x = self.batch, self.work.x
        n, rows = batch.n_tokens_at, batch.slots_in
        ops.call("gather_rows", n_tokens=n, rows=rows, x=self._kept, out=x, n_cols=x.shape[1])
        self._input.record_token(ops, x)

    def _output(self, ops: Recorder) -> None:
        """The logits of every token, and what the next step goes on with."""
        super()._output(ops)
        final = self.hidden.final[0].values
        assert final is not None
        self._input.record_state(ops, final, self._own)
