"""What a step's rows of logits mean for the requests that asked for them."""

from __future__ import annotations

import numpy as np

from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.output import TokenLogprobs
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.running_tails import n_equal
from pyroclast.engine.step_model import StepModel
from pyroclast.engine.step_results import StepResults
from pyroclast.errors import NumericalError, PyroclastError, SamplingError


class Outcome:
    """Hands a request what the step that has run computed for it.  `start` is the first of the
    request's rows, `token_ids` has the token of every row of the step."""

    __slots__ = ("_model", "_results")

    def __init__(self, model: StepModel, results: StepResults) -> None:
        self._model = model
        self._results = results

    def read(self, request: ReadRequest, start: int, token_ids: list[int]) -> int | None:
        """Delivers prompt rows and advances the request.  If one of its rows gave no token, returns
        that row instead."""
        n_rows = request.n_step_rows
        if n_rows == 1 and token_ids[start] < 0:
            return start
        if request.wants_prompt_rows and n_rows and request.n_rows_done < request.n_prompt:
            for row in range(start, start + n_rows):
                if token_ids[row] < 0:
                    return row
            self._deliver(request, start)
        request.advance()
        return None

    def give(
        self,
        request: ReadRequest,
        start: int,
        token_ids: list[int],
        start_s: float,
        end_s: float,
    ) -> int | None:
        """Does what `read` does, and gives the sampled tokens, if the request generates.  The step
        ran from `start_s` to `end_s`."""
        if not isinstance(request, GenerateRequest):
            return self.read(request, start, token_ids)
        if request.n_rows_done < request.n_prompt:
            bad_row = self.read(request, start, token_ids)
            if bad_row is not None:
                return bad_row
        elif request.n_step_drafts:
            request.clock.tick(start_s, end_s)
            return self._verify(request, start, token_ids)
        elif request.n_step_rows and token_ids[start] < 0:
            return start
        else:
            request.advance()
        request.clock.tick(start_s, end_s)
        if request.n_step_rows and request.n_computed == len(request.token_ids):
            row = start + request.n_step_rows - 1
            self._give(request, token_ids[row], row)
        return None

    def doubt(self, step: list[ReadRequest]) -> list[ReadRequest]:
        """`step` was given up, but it may have written the cache.  Nobody lends or keeps what it
        wrote before a row of finite logits stands behind it: where attention reads in pairs, a NaN
        right behind a text spoils it.  Returns those whose drafts brought one, which must give up
        their blocks: the next step computes their own tokens again, but maybe not these drafts."""
        spoiled, end = [], 0
        for request in step:
            request.n_unproven += request.n_step_tokens
            start, end = end, end + request.n_step_rows
            if request.n_step_drafts:
                largest = self._model.logits[start:end].max(axis=1)  # NaN if anything is
                if not np.isfinite(largest).all():
                    spoiled.append(request)
        return spoiled

    def why_no_token(self, row: int) -> PyroclastError:
        if self._results.is_finite(row):
            return SamplingError(
                "no token is left to choose from: allowed_token_ids, logit_bias and the stop "
                "tokens that min_tokens forbids exclude all of them"
            )
        where = self._model.find_non_finite() or "the logits"
        return NumericalError(
            f"NaN or infinity in the forward pass, first in {where}; generation stopped.  "
            'Damaged weights, or an overflow that compute="float32" may avoid'
        )

    def _verify(self, request: GenerateRequest, start: int, token_ids: list[int]) -> int | None:
        """Gives the token behind the last one and behind each draft, as long as drafts are right.
        If the first of these rows has no token, returns that row."""
        drafts, n_before = request.draft_ids, len(request.token_ids)
        rows = range(start, start + request.n_step_rows)
        tried = request.clock.note_drafts(request.draft_source, len(drafts))
        if not all(map(self._results.is_finite, rows)):
            self._undo_drafts(request)
            return None
        n_right = 0
        while True:
            token_id = token_ids[start + n_right]
            if token_id < 0:
                break  # the next step asks again, without the drafts before it
            self._give(request, token_id, start + n_right)
            # One token, and those that a grammar forces behind it.
            coming = request.token_ids[n_before + n_right :]
            n_same = n_equal(coming, drafts[n_right:])
            n_right += n_same
            if request.finish_reason is not None or n_same < len(coming):
                break
        if n_before == len(request.token_ids):
            return start
        tried.n_accepted += n_right
        request.n_unproven = 0
        # The last token of a text is not computed, even if it was a draft.
        request.n_computed = min(n_before + n_right, len(request.token_ids) - 1)
        return None

    def _undo_drafts(self, request: GenerateRequest) -> None:
        """A draft may have brought a NaN.  In some cache formats attention reads a position too
        many, with weight zero: the NaN spoils the row before the draft, and later ones.  Its blocks
        are zeroed, what they held is computed again, and this request tries no more drafts."""
        request.takes_drafts = False
        n_kept = request.n_computed // self._model.block_size
        self._model.zero_blocks(request.blocks[n_kept:])
        # A recurrent layer's state there may be gone: all is computed again.
        request.n_computed = 0 if self._model.n_slots else n_kept * self._model.block_size

    def _deliver(self, request: ReadRequest, row: int) -> None:
        """Prompt rows, the first of which is `row`; may deliver a row again after a restart."""
        end = request.n_computed + request.n_step_tokens
        first = end - request.n_step_rows
        if request.on_rows is not None:
            request.on_rows(first, self._model.logits[row : row + request.n_step_rows])
        if request.on_states is not None:
            request.on_states(first, self._model.hidden[0, row : row + request.n_step_rows])
        if request.scored is not None:
            for position in range(first, min(end, len(request.scored) - 1)):
                scored = self._results.logprobs(row + position - first, request.n_top)
                request.scored[position + 1] = scored

    def note_logprobs(self, request: GenerateRequest, row: int) -> list[TokenLogprobs] | None:
        """What a request that asked for it is told about the token of its row."""
        if request.logprobs is None:
            return None
        logprobs = [self._results.logprobs(row, request.params.logprobs or 0)]
        request.logprobs += logprobs
        return logprobs

    def _give(self, request: GenerateRequest, token_id: int, row: int) -> None:
        """One sampled token."""
        text = request.accept(token_id)
        request.emit(text, request.new_token_ids(token_id), self.note_logprobs(request, row))
