"""One step after another: plan it, fill the batch, run the model, hand the tokens out.

Not safe for threads by itself: `loop.Loop` lets one caller in at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter

from pyroclast.engine.batch_writer import BatchWriter
from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.call import Call
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.sample_rows import (
    ProcessorError,
    SampleRows,
    apply_processors,
    sample_program,
)
from pyroclast.engine.scheduler import Scheduler
from pyroclast.engine.step_model import StepModel
from pyroclast.errors import NumericalError, PyroclastError, SamplingError
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.program import PARTS_PER_THREAD

__all__ = ["StepModel", "Stepper"]


class Stepper:
    """Runs the requests that are added, all in the same steps.  sample_rules: the kernel rules
    that the model was made with."""

    def __init__(self, model: StepModel, sample_rules: str | None = None) -> None:
        vocab_size = model.logits.shape[1]
        arrays = SampleArrays(
            vocab_size=vocab_size,
            max_seq_len=model.max_seq_len,
            max_rows=model.max_logits,
            max_seqs=model.max_seqs,
            max_parts=model.n_threads * PARTS_PER_THREAD,
            memory=model.memory,
        )
        model.attach_sampler(**arrays.arguments())
        self.model = model
        self.scheduler: Scheduler[ReadRequest] = Scheduler(
            BlockPool(model.n_blocks),
            block_size=model.block_size,
            max_batch_tokens=model.max_batch_tokens,
            max_seqs=model.max_seqs,
            max_logits=model.max_logits,
        )
        self._batch = BatchWriter(model.batch, model.block_size)
        self._samples = SampleRows(arrays, vocab_size)
        self._sample_rules = sample_rules
        # Made at load, so that rules which cannot hold are told then; on the GPU, where the model
        # tells, when it is first needed.
        self._sample_alone: Callable[[], None] | None = None
        if not model.memory.on_gpu:
            self._sample_alone = sample_program(model.logits, arrays, sample_rules)
        self._planned: list[ReadRequest] = []  # the step being run
        self._steady: list[GenerateRequest] | None = (
            None  # the last step, if the next may be like it
        )
        self._changing: ReadRequest | None = (
            None  # the request whose tokens and text are being changed
        )
        self._views = (
            model.batch.token_ids.data,
            model.batch.positions.data,
            arrays.rows["position"].data,
            arrays.out["token_id"].data,
            model.block_size,
        )

    def add(self, request: ReadRequest) -> None:
        self._changing = request
        self.scheduler.add(request)
        self._changing = self._steady = None

    def step(self) -> None:
        """Runs one step.  An error of the model, or of a user's callable, is not raised here: it
        ends the calls concerned, and waits in them."""
        try:
            try:
                if self._steady is None or not self._decode(self._steady):
                    self._plan_and_run()
            except ProcessorError as failed:
                # Nothing has advanced: the others do the same step again.
                self._fail([failed.request], failed.reason)
            except PyroclastError as error:
                self._fail(self._planned, error)
        except BaseException:
            # Ctrl-C can land between any two bytecodes: trust nothing but the tokens themselves.
            self._recover()
            raise

    def end(self, call: Call, error: Exception | None = None) -> list[int]:
        """Takes the call's open requests off; returns the blocks that this freed."""
        requests = list(call.open)
        self._steady = None
        freed = self.scheduler.remove(requests)
        call.error = call.error or error
        for request in requests:
            if isinstance(request, GenerateRequest) and request.finish_reason is None:
                text = request.finish("abort")
                if call.error is None:
                    request.emit(text, [])
        call.open.clear()
        return freed

    def _decode(self, steady: list[GenerateRequest]) -> bool:
        """Runs a step in which everybody decodes, as in the step before: nothing to plan, little
        to write.  False, with nothing done, if somebody needs a new block.

        One piece on purpose: the weights that a step reads push everything else out of the
        caches, and then each function that is called costs microseconds (bench/overhead.py)."""
        token_ids, positions, sample_positions, sampled, block_size = self._views
        for i, request in enumerate(steady):
            n_tokens = len(request.token_ids)
            if not (n_tokens - 1) % block_size:
                return False
            token_ids[i] = request.token_ids[-1]
            positions[i] = n_tokens - 1
            sample_positions[i] = n_tokens
        self._samples.update()
        self.model.forward(True)
        now_s = perf_counter()
        finished: list[ReadRequest] = []
        failed: list[tuple[ReadRequest, int]] = []
        for i, request in enumerate(steady):
            self._changing = request
            token_id = sampled[i]
            if token_id < 0:
                failed.append((request, i))
                continue
            request.n_computed += 1
            request.clock.end_s = now_s
            text = request.accept(token_id)
            if request.finish_reason is not None:
                finished.append(request)
            if request.call.chunks is not None:
                request.emit(text, [token_id])
        self._changing = None
        if finished or failed:
            self._settle(finished, failed)
        return True

    def _plan_and_run(self) -> None:
        """Any step."""
        start_s = perf_counter()
        step = self._planned = self.scheduler.schedule()
        if not step:
            assert not self.scheduler, "requests wait, but none can run"
            return
        self._forward(step)
        self._collect(step, start_s)
        self._steady = None
        if self.scheduler.decodes_only and not self._samples.processed:
            steady = [
                request
                for request in step
                if isinstance(request, GenerateRequest) and request.logprobs is None
            ]
            if len(steady) == len(step):
                self._steady = steady

    def _forward(self, step: list[ReadRequest]) -> None:
        layout, samples = self.scheduler.layout, self._samples
        self._batch.write(step, layout)
        samples.write(step, layout)
        if samples.processed:
            self.model.forward()
            logits = self.model.logits
            apply_processors(samples.processed, logits)
            if self._sample_alone is None:
                self._sample_alone = sample_program(logits, samples.arrays, self._sample_rules)
            self._sample_alone()
            samples.sampled_on_host()
        else:
            self.model.forward(sample=True)

    def _collect(self, step: list[ReadRequest], start_s: float) -> None:
        """Gives every request of the step what it got."""
        now_s = perf_counter()
        token_ids = self._samples.token_ids()
        finished: list[ReadRequest] = []
        failed: list[tuple[ReadRequest, int]] = []
        row = 0  # behind the rows of the requests seen
        for request in step:
            self._changing = request
            n_rows = request.n_step_rows
            row += n_rows
            if n_rows == 1 and token_ids[row - 1] < 0:
                failed.append((request, row - 1))
                continue
            if request.wants_prompt_rows and n_rows and request.n_rows_done < request.n_prompt:
                bad = [r for r in range(row - n_rows, row) if token_ids[r] < 0]
                if bad:
                    failed.append((request, bad[0]))
                    continue
                self._read_rows(request, row - n_rows)
            request.advance()
            if isinstance(request, GenerateRequest):
                request.clock.tick(start_s, now_s)
                if n_rows and request.n_computed == len(request.token_ids):
                    self._give(request, token_ids[row - 1], row - 1)
                    if request.finish_reason is not None:
                        finished.append(request)
            elif request.n_computed == request.n_prompt:
                finished.append(request)
        self._changing = None
        if finished or failed:
            self._settle(finished, failed)

    def _read_rows(self, request: ReadRequest, row: int) -> None:
        """Prompt rows, the first of which is `row`; may deliver a row again after a restart."""
        end = request.n_computed + request.n_step_tokens
        first = end - request.n_step_rows
        if request.on_rows is not None:
            request.on_rows(first, self.model.logits[row : row + request.n_step_rows])
        if request.scored is not None:
            for position in range(first, min(end, len(request.scored) - 1)):
                scored = self._samples.logprobs(row + position - first, request.n_top)
                request.scored[position + 1] = scored

    def _give(self, request: GenerateRequest, token_id: int, row: int) -> None:
        """One sampled token."""
        text = request.accept(token_id)
        logprobs = None
        if request.logprobs is not None:
            logprobs = [self._samples.logprobs(row, request.params.logprobs or 0)]
            request.logprobs += logprobs
        request.emit(text, [token_id], logprobs)

    def _settle(self, finished: list[ReadRequest], failed: list[tuple[ReadRequest, int]]) -> None:
        """After a step: those that have all they wanted, and those whose row gave no token."""
        self._finish(finished)
        for request, row in failed:
            if request.call.error is None:
                self._fail([request], self._why_no_token(row))

    def _finish(self, requests: list[ReadRequest]) -> None:
        self._steady = None
        self.scheduler.remove(requests)
        for request in requests:
            request.call.open.discard(request)

    def _fail(self, requests: Iterable[ReadRequest], error: Exception) -> None:
        """Ends the calls of `requests` with an error.  What they leave in the KV cache is zeroed: a
        NaN there would outlive them."""
        for call in {request.call for request in requests}:
            freed = self.end(call, error)
            if freed:
                self.model.zero_blocks(freed)

    def _why_no_token(self, row: int) -> PyroclastError:
        if self._samples.is_finite(row):
            return SamplingError(
                "no token is left to choose from: allowed_token_ids, logit_bias and the stop "
                "tokens that min_tokens forbids exclude all of them"
            )
        where = self.model.find_non_finite() or "the logits"
        return NumericalError(
            f"NaN or infinity in the forward pass, first in {where}; request stopped.  "
            'Damaged weights, or an overflow that compute="float32" may avoid'
        )

    def _recover(self) -> None:
        """After an interruption at an unknown place: everything computed is computed again, and
        the request whose tokens or text may be half changed ends."""
        self._steady = None
        self._batch.forget()
        self._samples.forget()
        self.scheduler.restart_all()
        half_done, self._changing = self._changing, None
        done = [
            request
            for request in self.scheduler.requests()
            if isinstance(request, GenerateRequest) and request.finish_reason is not None
        ]
        self._finish([request for request in done if request is not half_done])
        if half_done is not None and half_done in half_done.call.open:
            self.end(half_done.call, PyroclastError("interrupted between two tokens"))
