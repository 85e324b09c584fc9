"""Writes each row's sampling parameters for a step into the arrays of the op `sample`.

Row r belongs to the r-th row of logits of the step.  A row that only reads (a prompt token to be
scored) has a target and draws nothing.  Penalties, biases and masks lie in flat arrays, in
segments: the i-th request of the step owns the i-th segment.  A step that only decodes changes one
position per row and, with penalties, one count.

A request with drafts has a row for its next token and one behind each draft.  These rows differ in
their position and, where penalties, min_tokens or a grammar depend on the tokens so far, in their
tables: then each owns one of the segments that the requests leave over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.generate_request import GenerateRequest, RequestFailedError
from pyroclast.engine.read_request import ReadRequest
from pyroclast.errors import SamplingError
from pyroclast.sampling.arrays import SampleArrays
from pyroclast.sampling.param_checks import MAX_LOGIT_BIASES
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.sample import PENALTY

if TYPE_CHECKING:
    from pyroclast.sampling.grammar import Matcher

Slots: TypeAlias = dict[int, int]  # token id -> which penalty counts it

_ROW_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
)


class _Changing:
    """A row whose tables change from token to token."""

    __slots__ = ("request", "row", "segment", "slots", "start")

    def __init__(
        self, request: GenerateRequest, segment: int, row: int, start: int, slots: Slots
    ) -> None:
        self.request, self.segment, self.row = request, segment, row
        # Where its penalties start, and which of them counts each token; none if it has none.
        self.start, self.slots = start, slots


class SampleWriter:
    """`write` fills the arrays for a step.  `changing` lists the rows whose tables `update` keeps
    right, `processed` those whose logits users' callables change."""

    def __init__(self, arrays: SampleArrays) -> None:
        self._arrays = arrays
        self._notes = arrays.memory.on_gpu
        # Single values through memoryviews: half the time of NumPy's.
        self._n_penalties = arrays.rows["n_penalties"].data
        self._penalties = tuple(arrays.penalties[name].data for name in PENALTY.names or ())
        self._allowed_starts = arrays.rows["allowed_start"].data
        # Asked once: NumPy takes longer to tell an address than a grammar to write its mask.
        self._allowed_address = arrays.allowed.ctypes.data
        self.changing: list[_Changing] = []
        self.processed: list[tuple[int, GenerateRequest]] = []

    def close(self) -> None:
        """Frees the arrays."""
        self._penalties = ()
        self._arrays.close()

    def write(self, step: Sequence[ReadRequest]) -> None:
        self.changing.clear()
        self.processed = []
        n_rows, spare = 0, len(step)  # the first segment that no request of the step owns
        for i, request in enumerate(step):
            if not request.n_step_rows:
                continue
            end = n_rows + request.n_step_rows
            first_sampled = end
            whole = request.n_computed + request.n_step_tokens >= len(request.token_ids)
            if whole and isinstance(request, GenerateRequest):
                first_sampled -= 1 + request.n_step_drafts
                slots = self._write_sampled(request, i, first_sampled)
                spare = self._write_drafts(request, range(first_sampled + 1, end), slots, spare)
            self._write_targets(request, n_rows, first_sampled)
            n_rows = end
        self._arrays.n_rows[0] = n_rows

    def update(self) -> None:
        """Follows one more token of each request since the last step."""
        ids, n_prompt, n_output = self._penalties
        for changing in self.changing:
            request, slots = changing.request, changing.slots
            n_tokens = len(request.token_ids)
            if n_tokens == request.min_length or request.matcher is not None:
                self._write_allowed(request, changing.segment, changing.row, n_tokens)
            if not slots:
                continue
            token_id = request.token_ids[-1]
            slot = slots.get(token_id)
            if slot is None:
                slot = slots[token_id] = changing.start + self._n_penalties[changing.row]
                ids[slot], n_prompt[slot], n_output[slot] = token_id, 0, 0
                self._n_penalties[changing.row] += 1
            n_output[slot] += 1
            if self._notes:
                self._arrays.memory.note(self._arrays.penalties, slot, slot + 1)

    def _write_targets(self, request: ReadRequest, start: int, end: int) -> None:
        """Rows that read: the row of a position tells of the token that follows it."""
        if start == end:
            return
        first = request.n_computed + request.n_step_tokens - request.n_step_rows
        rows = self._arrays.rows[start:end]
        rows["target"] = request.targets[first : first + end - start]
        rows["want_logprob"] = request.scored is not None
        rows["n_top"] = min(request.n_top, self._arrays.vocab_size)

    def _write_sampled(self, request: GenerateRequest, segment: int, row: int) -> Slots:
        """The row that the request's next token is drawn from.  Returns which penalty counts each
        token id."""
        params, n_tokens = request.params, len(request.token_ids)
        values = self._arrays.rows[row]
        for name in _ROW_FIELDS:
            values[name] = getattr(params, name)
        values["seed"], values["completion"] = request.seed, request.index
        values["position"] = n_tokens
        values["target"] = -1
        values["want_logprob"] = params.logprobs is not None
        values["n_top"] = min(params.logprobs or 0, self._arrays.vocab_size)
        self._write_biases(values, params, segment)
        slots = self._write_penalties(request, segment, row)
        self._write_allowed(request, segment, row, n_tokens)
        if request.tables_vary:
            start = segment * self._arrays.n_penalties
            self.changing.append(_Changing(request, segment, row, start, slots))
        if params.logits_processors:
            self.processed.append((row, request))
        return slots

    def _write_drafts(self, request: GenerateRequest, rows: range, slots: Slots, spare: int) -> int:
        """The rows behind each draft; returns the first segment that is then still free.  slots: of
        the row before them."""
        varies = request.tables_vary
        matcher = request.matcher.copy() if request.matcher is not None and rows else None
        for n_drafts, row in enumerate(rows, start=1):
            position, draft_id = len(request.token_ids) + n_drafts, request.draft_ids[n_drafts - 1]
            self._arrays.rows[row] = self._arrays.rows[row - 1]
            self._arrays.rows["position"][row] = position
            if not varies:
                continue
            if request.params.has_penalties:
                slots = self._count_draft(draft_id, row, spare, slots)
            if matcher is not None:
                matcher.accept(draft_id)
            try:
                self._write_mask(request, spare, row, position, matcher)
            except SamplingError:  # told if the text comes so far: this row gives no token
                self._forbid_all(spare, row)
            spare += 1
        return spare

    def _count_draft(self, draft_id: int, row: int, segment: int, slots: Slots) -> Slots:
        """The penalties of the row before, and one more `draft_id`."""
        penalties, values = self._arrays.penalties, self._arrays.rows[row]
        before, start = int(values["penalty_start"]), segment * self._arrays.n_penalties
        slots = {token_id: slot - before + start for token_id, slot in slots.items()}
        penalties[start : start + len(slots)] = penalties[before : before + len(slots)]
        slot = slots.get(draft_id)
        if slot is None:
            slot = slots[draft_id] = start + len(slots)
            penalties[slot] = (draft_id, 0, 0)
        penalties[slot]["n_output"] += 1
        values["penalty_start"], values["n_penalties"] = start, len(slots)
        self._arrays.memory.note(penalties, start, start + len(slots))
        return slots

    def _write_biases(self, values: Any, params: SamplingParams, segment: int) -> None:
        start, n_biases = segment * MAX_LOGIT_BIASES, len(params.logit_bias)
        values["bias_start"], values["n_biases"] = start, n_biases
        if n_biases:
            self._arrays.biases[start : start + n_biases] = list(params.logit_bias.items())
            self._arrays.memory.note(self._arrays.biases, start, start + n_biases)

    def _write_penalties(self, request: GenerateRequest, segment: int, row: int) -> Slots:
        """Counts the tokens before the row.  Returns which penalty counts each token id."""
        start = segment * self._arrays.n_penalties
        values = self._arrays.rows[row]
        values["penalty_start"], values["n_penalties"] = start, 0
        if not request.params.has_penalties:
            return {}
        n_prompt = request.n_prompt - request.n_answered
        prompt = Counter(request.token_ids[:n_prompt])
        output = Counter(request.token_ids[n_prompt:])
        token_ids = list(prompt | output)
        values["n_penalties"] = len(token_ids)
        self._arrays.penalties[start : start + len(token_ids)] = [
            (token_id, prompt[token_id], output[token_id]) for token_id in token_ids
        ]
        self._arrays.memory.note(self._arrays.penalties, start, start + len(token_ids))
        return {token_id: slot for slot, token_id in enumerate(token_ids, start)}

    def _write_allowed(
        self, request: GenerateRequest, segment: int, row: int, position: int
    ) -> None:
        """The mask of the row that the request's next token is drawn from."""
        try:
            self._write_mask(request, segment, row, position, request.matcher)
        except SamplingError as error:
            raise RequestFailedError(request, error, has_run=False) from error

    def _write_mask(
        self,
        request: GenerateRequest,
        segment: int,
        row: int,
        position: int,
        matcher: Matcher | None,
    ) -> None:
        """The mask: the grammar, allowed_token_ids, and no stop token before min_tokens."""
        start = segment * self._arrays.n_words
        early = position < request.min_length and len(request.stop_ids) > 0
        allowed = request.params.allowed_token_ids
        if matcher is not None:
            matcher.write_mask(self._allowed_address + 4 * start)
        elif not early and allowed is None:
            self._allowed_starts[row] = -1
            return
        if early or allowed is not None:
            self._narrow(request, segment, allowed, early)
        if self._notes:
            self._arrays.memory.note(self._arrays.allowed, start, start + self._arrays.n_words)
        self._allowed_starts[row] = start

    def _forbid_all(self, segment: int, row: int) -> None:
        words = self._words(segment)
        self._arrays.allowed[words] = 0
        self._arrays.memory.note(self._arrays.allowed, words.start, words.stop)
        self._allowed_starts[row] = words.start

    def _words(self, segment: int) -> slice:
        """Where the mask of a segment is."""
        start = segment * self._arrays.n_words
        return slice(start, start + self._arrays.n_words)

    def _narrow(
        self, request: GenerateRequest, segment: int, allowed: tuple[int, ...] | None, early: bool
    ) -> None:
        """What the parameters allow, of what the grammar does."""
        words = self._arrays.allowed[self._words(segment)]
        if request.matcher is None:
            words[:] = self._allowed(request, allowed, early)
            return
        both = words & self._allowed(request, allowed, early)
        if early and not both.any():
            # A grammar that is complete allows nothing but the end: then min_tokens cannot be.
            both = words & self._allowed(request, allowed, False)
        words[:] = both

    def _allowed(
        self, request: GenerateRequest, allowed: tuple[int, ...] | None, early: bool
    ) -> NDArray[np.uint32]:
        """A bit for each row of logits: what the parameters allow."""
        bits = np.zeros(32 * self._arrays.n_words, np.uint8)
        bits[slice(None) if allowed is None else list(allowed)] = 1
        if early:
            bits[list(request.stop_ids)] = 0
        return np.packbits(bits, bitorder="little").view(np.uint32)
