"""One decoding step by itself, each of its calls timed: the model's, then the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.inspection import Lease
from pyroclast.engine.logits_processing import apply_processors
from pyroclast.engine.sample_writer import SampleWriter
from pyroclast.errors import QueueFullError
from pyroclast.lens.choice import logits_after
from pyroclast.lens.inside import model_of
from pyroclast.model.inspect import borrowed_batch, fill
from pyroclast.sampling.arrays import SampleArrays
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels import timeline
from pyroclast_kernels.program import PARTS_PER_THREAD, OpCall, Program, Recorder

if TYPE_CHECKING:
    from pyroclast.llm import LLM


class OneStep:
    """The step that computes the last of token_ids and draws the next token under `params`.

    The sampler gets the logits that follow the context, and arrays of its own: those of the engine
    hold what the requests that run need.  slot: the adapter's, None without one."""

    def __init__(
        self, llm: LLM, token_ids: Sequence[int], params: SamplingParams, adapter: str | None
    ) -> None:
        self._llm, self._model, self._ids = llm, model_of(llm), list(token_ids)
        call = llm._call(adapter)  # noqa: SLF001 - the lens is a face of the LLM
        self.slot = call.adapter.slot
        self._logits = logits_after(llm, self._ids, adapter)[None].copy()
        [request] = llm._intake.generate_requests(  # noqa: SLF001
            [self._ids], params, call, continues_text=True
        )
        request.n_computed = len(self._ids) - 1
        request.n_step_tokens = request.n_step_rows = 1
        arrays = SampleArrays(
            vocab_size=llm.vocab_size,
            max_seq_len=llm.max_seq_len,
            max_rows=1,
            max_seqs=1,
            max_parts=self._model.n_threads * PARTS_PER_THREAD,
        )
        writer = SampleWriter(arrays)
        writer.write([request])
        apply_processors(writer.processed, self._logits)
        recorder = Recorder(self._model.plan.selection)
        recorder.call("sample", logits=self._logits, **arrays.arguments())
        step = self._model.program()
        if writer.processed:  # then the engine samples outside the program, on one thread
            self._programs = [step, Program(recorder.calls)]
        else:
            self._programs = [Program([*step.calls, *recorder.calls], step.executor)]

    @property
    def calls(self) -> list[OpCall]:
        """Those of the model, in order, and the sampler's."""
        return [call for program in self._programs for call in program.calls]

    def profile(self) -> list[float]:
        """Runs the step, and gives the microseconds of each of `calls`.  No other step may run
        meanwhile.  What the cache holds does not change the model's time.  QueueFullError where
        requests leave no cache blocks."""
        model = self._model
        scheduler = self._llm._loop.stepper.scheduler  # noqa: SLF001
        lease = Lease(scheduler)
        try:
            if not lease.take(scheduler.n_blocks_for(len(self._ids))):
                raise QueueFullError("the requests that run leave no cache blocks; try again later")
            with borrowed_batch(model) as batch:
                fill(batch, self._ids[-1:], len(self._ids) - 1, lease.blocks)
                batch.logit_rows[0] = 0
                batch.n_logits_at[0] = 1
                model.adapters.assign([self.slot])
                each = [timeline.profile(program) for program in self._programs]
                return [microseconds for times in each for microseconds in times]
        finally:
            lease.end()
