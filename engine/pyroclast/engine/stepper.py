"""One step after another: plan it, fill its arrays, run the model, hand the tokens out.

Not safe for threads by itself: `loop.Loop` lets one caller in at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter

from pyroclast.engine.call import Call
from pyroclast.engine.generate_request import GenerateRequest, RequestFailedError
from pyroclast.engine.logits_processing import HostSampler
from pyroclast.engine.outcome import Outcome
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.speculate import Drafting
from pyroclast.engine.step_model import StepModel
from pyroclast.engine.step_parts import sample_arrays, scheduler, step_writer
from pyroclast.engine.step_results import StepResults
from pyroclast.engine.tiered_cache import TieredCache
from pyroclast.errors import NumericalError, PyroclastError

# A batch request counts as if it had come that much later than an interactive one.
_BATCH_DELAY_S = 60.0


class Stepper:
    """Runs the requests that are added, all in the same steps.  sample_rules: the kernel rules
    that the model was made with.  prefixes: the prefix cache, and the pool of blocks.  speculator:
    proposes drafts before each step."""

    def __init__(
        self,
        model: StepModel,
        sample_rules: str | None,
        prefixes: TieredCache,
        speculator: Drafting | None = None,
    ) -> None:
        arrays = sample_arrays(model)
        self.model = model
        self.scheduler = scheduler(model, prefixes)
        self._speculator = speculator
        self._writer = step_writer(model, arrays)
        self._write_next = self._writer.write_next
        self._results = StepResults(arrays)
        self._sampled = self._results.sampled
        self._outcome = Outcome(model, self._results)
        self._host_sampler = HostSampler(model, arrays, sample_rules)
        self._planned: list[ReadRequest] = []  # the step being run
        # The last step, if the next may be like it.
        self._steady: list[GenerateRequest] | None = None
        self._decode_times: deque[float] = deque()  # of steps like it: the pace's
        # The request whose tokens and text are being changed.
        self._changing: ReadRequest | None = None
        # Everyone who was added and has not ended: `_recover` trusts this, and not the scheduler.
        self._live: set[ReadRequest] = set()
        self._is_distrusted = False  # something was interrupted

    def add(self, request: ReadRequest) -> None:
        """Queues a request; again, if the first time was interrupted."""
        self._steady = None
        if request in self._live:
            self.scheduler.remove([request])
        self._live.add(request)
        delay_s = _BATCH_DELAY_S if request.call.priority == "batch" else 0.0
        self.scheduler.add(request, perf_counter() + delay_s)

    def has_work(self) -> bool:
        """Whether there is something to compute, or to repair."""
        return self._is_distrusted or bool(self.scheduler)

    def calls(self) -> set[Call]:
        """The calls that have not ended."""
        return {request.call for request in self._live}

    def distrust(self) -> None:
        """Something was interrupted outside of a step: the next one repairs it first."""
        self._is_distrusted = True

    def pause(self, call: Call) -> None:
        """Leaves a call out of the steps: it has as many chunks as may wait for its reader."""
        self._steady = None
        call.is_paused = True
        self.scheduler.pause(call.open)
        if call.wants_more:  # its reader was fast, and has not seen that it is paused
            self.resume(call)

    def resume(self, call: Call) -> None:
        """Takes a call that was paused into the steps again."""
        self._steady = None
        call.is_paused = False
        self.scheduler.resume(call.open)

    def propose(self, request: GenerateRequest, draft_ids: list[int]) -> None:
        """Puts up tokens that may follow those of `request`.  The next step verifies as many as it
        has room for, and gives those that are right and one more, the same as step by step."""
        assert all(0 <= i < self.model.logits.shape[1] for i in draft_ids), "no such token"
        if usable := request.usable_drafts(draft_ids):
            self.scheduler.propose(request, usable)
            self._steady = None

    def close(self) -> None:
        """Frees the model, what proposes drafts, and the arrays of a step."""
        if self._speculator is not None:
            self._speculator.close()
        self._host_sampler.close()
        self._writer.close()
        self.model.close()

    def step(self) -> None:
        """Runs one step.  An error of the model, or of what one request brought in, is not raised
        here: it ends the calls concerned, and waits in them."""
        try:
            if self._is_distrusted:
                self._recover(None)
            try:
                if self._speculator is not None:
                    self._propose(self._speculator)
                if self._steady is None or not self._decode(self._steady):
                    self._plan_and_run()
            except RequestFailedError as failed:
                # No text has advanced: the others do the step again, some from their beginning.
                doubted = self._outcome.doubt(self._planned) if failed.has_run else []
                for request in doubted:
                    self.scheduler.remove([request])
                    self.scheduler.put_back(request)
                self._fail([failed.request], failed.reason)
            except PyroclastError as error:
                if self._changing is not None or not self._planned:
                    raise
                self._is_distrusted = True
                self._fail(self._planned, error)
        except BaseException as error:
            # Ctrl-C can land between any two bytecodes: trust nothing but the tokens themselves.
            self._is_distrusted = True
            if not self._recover(error):
                raise

    def end(
        self, call: Call, error: Exception | None = None, *, spoiled: bool = False
    ) -> list[int]:
        """Takes the call's open requests off; returns the blocks that this freed.  spoiled: nobody
        shall read what they have computed."""
        requests = list(call.open)
        self._steady = None
        freed = self.scheduler.remove(requests, spoiled=spoiled)
        call.error = call.error or error
        for request in requests:
            if isinstance(request, GenerateRequest) and request.finish_reason is None:
                request.abort()
        if self._speculator is not None:
            self._speculator.drop(requests)
        call.open.clear()
        call.note()
        self._live.difference_update(requests)
        return freed

    def _propose(self, speculator: Drafting) -> None:
        for request, draft_ids in speculator.drafts(self._steady or self.scheduler.running):
            assert isinstance(request, GenerateRequest), "others take no drafts"
            self.propose(request, draft_ids)

    def _decode(self, steady: list[GenerateRequest]) -> bool:
        """A step in which all decode, as in the step before: nothing to plan, little to write.
        False, with nothing done, if somebody needs a new block.  One piece on purpose: a step
        evicts all from the caches, and then each call costs microseconds (bench/overhead.py)."""
        start_s = perf_counter()
        if not self._write_next(steady):
            return False
        self.model.forward(True)
        now_s = perf_counter()
        self._results.has_top = False
        self._decode_times.append(now_s - start_s)
        sampled = self._sampled
        finished: list[ReadRequest] = []  # not list[...](): calling an alias took 10 us
        failed: list[tuple[ReadRequest, int]] = []
        for i, request in enumerate(steady):
            self._changing = request
            token_id = sampled[i]
            if token_id < 0:
                failed.append((request, i))
                continue
            request.n_computed, request.clock.end_s = request.n_computed + 1, now_s
            text = request.accept(token_id)
            if request.finish_reason is not None:
                finished.append(request)
            logprobs, new_ids = None, [token_id]
            if request.logprobs is not None:
                logprobs = [self._results.logprobs(i, request.params.logprobs or 0)]
                request.logprobs += logprobs
            if request.n_forced:  # there is more than one token to compute
                new_ids, self._steady = request.new_token_ids(token_id), None
                self.scheduler.decodes_only = False
            if request.call.chunks is not None and request.emit(text, new_ids, logprobs):
                self.pause(request.call)
        self._changing = None
        if finished or failed:
            self._settle(finished, failed)
        return True

    def _plan_and_run(self) -> None:
        """Runs a step of any kind."""
        start_s = perf_counter()
        self._planned = []
        step = self._planned = self.scheduler.schedule()
        if not step:
            assert not self.scheduler, "requests wait, but none can run"
            return
        self._writer.write(step, self.scheduler.layout)
        processed = self._writer.processed
        self._results.has_top = bool(processed)  # the CPU writes it
        self.model.forward(sample=not processed)
        if processed:
            self._host_sampler.run(processed)
        self.scheduler.pace.note_step(step, self.scheduler.n_decoding, perf_counter() - start_s)
        self._collect(step, start_s)
        self._steady = None
        if self.scheduler.decodes_only and not processed:
            steady = [r for r in step if isinstance(r, GenerateRequest) and r.n_unread == 1]
            if len(steady) == len(step):
                self._steady = steady
                self._decode_times = self.scheduler.pace.decode_times(len(step))
            else:  # a grammar has forced tokens: there is more than one to compute
                self.scheduler.decodes_only = False

    def _collect(self, step: list[ReadRequest], start_s: float) -> None:
        """Gives every request of the step what it got."""
        outcome, now_s = self._outcome, perf_counter()
        token_ids = self._results.token_ids()
        finished: list[ReadRequest] = []
        failed: list[tuple[ReadRequest, int]] = []
        end = 0
        for request in step:
            self._changing = request
            start, end = end, end + request.n_step_rows
            bad_row = outcome.give(request, start, token_ids, start_s, now_s)
            if bad_row is not None:
                failed.append((request, bad_row))
            elif request.is_done:
                finished.append(request)
            if request.call.is_full:
                self.pause(request.call)
        self._changing = None
        if (states := self.scheduler.states) is not None:
            states.advance(step)
        if finished or failed:
            self._settle(finished, failed)

    def _settle(self, finished: list[ReadRequest], failed: list[tuple[ReadRequest, int]]) -> None:
        """After a step: those that have all they wanted, and those whose row gave no token."""
        self._finish(finished)
        for request, row in failed:
            if request.call.error is None:
                self._fail([request], self._outcome.why_no_token(row))

    def _finish(self, requests: list[ReadRequest]) -> None:
        self._steady = None
        if self._speculator is not None:
            self._speculator.keep(requests)
        self.scheduler.remove(requests)
        for request in requests:
            request.leave_call()
        self._live.difference_update(requests)

    def _fail(self, requests: Iterable[ReadRequest], error: Exception) -> None:
        """Ends the calls of `requests` with an error.  What they leave in the KV cache is zeroed: a
        NaN there would outlive them."""
        for call in {request.call for request in requests}:
            freed = self.end(call, error, spoiled=isinstance(error, NumericalError))
            if freed:
                self.model.zero_blocks(freed)

    def _recover(self, error: BaseException | None) -> bool:
        """After an interruption at an unknown place: everything computed is computed again, and
        who is half changed or half ended ends.  Whether `error` is told: to the request that
        brought it in."""
        self._steady = None
        self._writer.forget()
        if self._speculator is not None:
            self._speculator.forget(self._live)
        half_done = self._changing
        done = [each for each in self._live if each is not half_done and each.is_done]
        self.scheduler.restart_all(self._live)
        self._finish(done)
        brought = error if isinstance(error, Exception) else None
        if is_told := half_done is not None and half_done in half_done.call.open:
            self.end(half_done.call, brought or PyroclastError("interrupted between two tokens"))
        for lost in self._live.difference(self.scheduler.requests()):
            if lost not in lost.call.open:  # `end` had nothing else left to do
                self._live.discard(lost)
                lost.call.note()
            elif lost.call.error is not None:
                self.end(lost.call)
            else:  # between two queues
                self.scheduler.put_back(lost)
        self._changing = None
        self._is_distrusted = False
        return is_told and brought is not None
