"""Writes each row's sampling parameters for a step into the arrays of the op `sample`, and reads
the results back.  Row r belongs to the r-th row of logits of the step.

A row that only reads (a prompt token to be scored) has a target and draws nothing.  Penalties,
biases and masks live in flat arrays where the i-th request of the step owns the i-th segment, so
a step that only decodes changes one position per row and, with penalties, one count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.output import TokenLogprobs
from pyroclast.engine.read_request import ReadRequest
from pyroclast.errors import SamplingError
from pyroclast.sampling.arrays import SampleArrays
from pyroclast.sampling.params import MAX_LOGIT_BIASES
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.sample import NOT_FINITE, OUT, PENALTY
from pyroclast_kernels.selection import Selection

if TYPE_CHECKING:
    from pyroclast.sampling.params import SamplingParams

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
    """A row whose parameters change from token to token, besides its position."""

    __slots__ = ("i", "request", "row", "slots")

    def __init__(self, i: int, row: int, request: GenerateRequest) -> None:
        self.i, self.row, self.request = i, row, request
        self.slots: dict[int, int] = {}  # of each token id in the row's penalties


class SampleRows:
    """Fills the arrays for a step with `write`; after the op has run, `token_ids` and `logprobs`
    give the results.  A step of a layout seen last time holds one sampled row per request."""

    def __init__(self, arrays: SampleArrays, vocab_size: int) -> None:
        self.arrays = arrays
        self._vocab_size = vocab_size
        self._notes = arrays.memory.on_gpu
        # Single values through memoryviews: half the time of NumPy's.
        self._positions = arrays.rows["position"].data
        self._n_penalties = arrays.rows["n_penalties"].data
        self._penalties = tuple(arrays.penalties[name].data for name in PENALTY.names or ())
        self._out = {name: arrays.out[name].data for name in OUT.names or ()}
        self._out_ids = self._out["token_id"]
        self._changing: list[_Changing] = []
        self._layout = -1
        self._n_rows = 0
        self._has_top = False  # the top arrays hold what the last step wrote
        self.processed: list[tuple[int, GenerateRequest]] = []  # rows with callables of the user's

    def forget(self) -> None:
        """The next `write` trusts nothing that is in the arrays."""
        self._layout = -1

    def write(self, step: Sequence[ReadRequest], layout: int) -> None:
        self._has_top = False
        if layout != self._layout:
            self._write_all(step)
            self._layout = layout
            return
        positions = self._positions
        for i, request in enumerate(step):
            positions[i] = len(request.token_ids)
        self.update()

    def token_ids(self) -> list[int]:
        """The token of each row; -1 where none could be chosen (`is_finite` tells why)."""
        found: list[int] = self._out_ids[: self._n_rows].tolist()
        return found

    def is_finite(self, row: int) -> bool:
        """Whether a row without a token had logits that are numbers."""
        return bool(self.arrays.out["status"][row] != NOT_FINITE)

    def logprobs(self, row: int, n_top: int) -> TokenLogprobs:
        """What the row's own logits say of its token and of the `n_top` most likely ones."""
        out = self._out
        top: list[tuple[int, float]] = []
        if n_top:
            self._fetch_top()
            ids = self.arrays.top_ids[row, :n_top].tolist()
            logprobs = self.arrays.top_logprobs[row, :n_top].tolist()
            # Fewer tokens than that may be possible at all.
            top = [each for each in zip(ids, logprobs, strict=True) if each[0] >= 0]
        return TokenLogprobs(
            out["token_id"][row],
            out["logprob"][row],
            out["rank"][row],
            bool(out["is_greedy"][row]),
            top,
        )

    def sampled_on_host(self) -> None:
        """The step's results were written by the CPU: nothing is to be fetched."""
        self._has_top = True

    def _fetch_top(self) -> None:
        arrays = self.arrays
        if not self._has_top:
            arrays.memory.fetch(arrays.top_ids, self._n_rows)
            arrays.memory.fetch(arrays.top_logprobs, self._n_rows)
            self._has_top = True

    def _write_all(self, step: Sequence[ReadRequest]) -> None:
        self._changing = []
        self.processed = []
        n_rows = 0
        for i, request in enumerate(step):
            if not request.n_step_rows:
                continue
            end = n_rows + request.n_step_rows
            last = request.n_computed + request.n_step_tokens == len(request.token_ids)
            samples = last and isinstance(request, GenerateRequest)
            self._write_targets(request, n_rows, end - samples)
            if samples:
                assert isinstance(request, GenerateRequest)
                self._write_sampled(request, i, end - 1)
            n_rows = end
        self._n_rows = n_rows
        self.arrays.n_rows[0] = n_rows

    def _write_targets(self, request: ReadRequest, start: int, end: int) -> None:
        """Rows that read: the row of a position tells of the token that follows it."""
        if start == end:
            return
        first = request.n_computed + request.n_step_tokens - request.n_step_rows
        rows = self.arrays.rows[start:end]
        rows["target"] = request.targets[first : first + end - start]
        rows["want_logprob"] = request.scored is not None
        rows["n_top"] = min(request.n_top, self._vocab_size)

    def _write_sampled(self, request: GenerateRequest, i: int, row: int) -> None:
        arrays, params = self.arrays, request.params
        values = arrays.rows[row]
        for name in _ROW_FIELDS:
            values[name] = getattr(params, name)
        values["seed"], values["stream"] = request.seed, request.index
        values["position"] = len(request.token_ids)
        values["target"] = -1
        values["want_logprob"] = params.logprobs is not None
        values["n_top"] = min(params.logprobs or 0, self._vocab_size)
        self._write_biases(values, params, i)
        changing = _Changing(i, row, request)
        self._write_penalties(changing)
        self._write_allowed(changing)
        if params.has_penalties or len(request.token_ids) < request.min_length:
            self._changing.append(changing)
        if params.logits_processors:
            self.processed.append((row, request))

    def _write_biases(self, values: Any, params: SamplingParams, i: int) -> None:
        start, n_biases = i * MAX_LOGIT_BIASES, len(params.logit_bias)
        values["bias_start"], values["n_biases"] = start, n_biases
        if n_biases:
            self.arrays.biases[start : start + n_biases] = list(params.logit_bias.items())
            self.arrays.memory.note(self.arrays.biases, start, start + n_biases)

    def _write_penalties(self, changing: _Changing) -> None:
        request, start = changing.request, changing.i * self.arrays.n_penalties
        values = self.arrays.rows[changing.row]
        values["penalty_start"], values["n_penalties"] = start, 0
        if not request.params.has_penalties:
            return
        prompt = Counter(request.token_ids[: request.n_prompt])
        output = Counter(request.token_ids[request.n_prompt :])
        token_ids = list(prompt | output)
        changing.slots = {token_id: slot for slot, token_id in enumerate(token_ids)}
        values["n_penalties"] = len(token_ids)
        self.arrays.penalties[start : start + len(token_ids)] = [
            (token_id, prompt[token_id], output[token_id]) for token_id in token_ids
        ]
        self.arrays.memory.note(self.arrays.penalties, start, start + len(token_ids))

    def _write_allowed(self, changing: _Changing) -> None:
        """The mask: allowed_token_ids, and no stop token before min_tokens."""
        request, start = changing.request, changing.i * self.arrays.n_words
        values = self.arrays.rows[changing.row]
        early = len(request.token_ids) < request.min_length and len(request.stop_ids) > 0
        allowed = request.params.allowed_token_ids
        if not early and allowed is None:
            values["allowed_start"] = -1
            return
        bits = np.zeros(32 * self.arrays.n_words, np.uint8)
        bits[slice(None) if allowed is None else list(allowed)] = 1
        if early:
            bits[list(request.stop_ids)] = 0
        mask = np.packbits(bits, bitorder="little").view(np.uint32)
        self.arrays.allowed[start : start + self.arrays.n_words] = mask
        self.arrays.memory.note(self.arrays.allowed, start, start + self.arrays.n_words)
        values["allowed_start"] = start

    def update(self) -> None:
        """One more token of each request since the last step: what changes besides positions."""
        for changing in self._changing:
            request = changing.request
            if len(request.token_ids) == request.min_length:
                self._write_allowed(changing)
            if request.params.has_penalties:
                self._count(changing, request.token_ids[-1])

    def _count(self, changing: _Changing, token_id: int) -> None:
        """One more occurrence of a token, for the penalties."""
        ids, n_prompt, n_output = self._penalties
        slot, start = changing.slots.get(token_id), changing.i * self.arrays.n_penalties
        if slot is None:
            slot = changing.slots[token_id] = len(changing.slots)
            ids[start + slot], n_prompt[start + slot], n_output[start + slot] = token_id, 0, 0
            self._n_penalties[changing.row] = slot + 1
        n_output[start + slot] += 1
        if self._notes:
            self.arrays.memory.note(self.arrays.penalties, start + slot, start + slot + 1)


def sample_program(
    logits: NDArray[np.float32], arrays: SampleArrays, rules: str | None
) -> Callable[[], None]:
    """The op `sample` on `logits` by itself, on the CPU, in the variant that `rules` choose."""
    recorder = Recorder(Selection(rules))
    recorder.call("sample", logits=logits, **arrays.on_host())
    return Program(recorder.calls).run


class ProcessorError(Exception):
    """A user's callable raised (the cause) or gave back something else than logits."""

    def __init__(self, request: GenerateRequest, reason: Exception) -> None:
        super().__init__(str(reason))
        self.request, self.reason = request, reason


def apply_processors(
    processed: list[tuple[int, GenerateRequest]], logits: NDArray[np.float32]
) -> None:
    """Lets the users' callables change their rows of `logits` in place.

    They get a copy, so one that keeps the array does not see the next step's logits."""
    for row, request in processed:
        for process in request.params.logits_processors:
            try:
                changed = process(list(request.token_ids), logits[row].copy())
                logits[row] = _checked(changed, logits.shape[1])
            except Exception as error:
                raise ProcessorError(request, error) from error


def _checked(changed: Any, vocab_size: int) -> NDArray[np.float32]:
    array = np.asarray(changed, np.float32)
    if array.shape != (vocab_size,):
        raise SamplingError(
            f"a logits processor must return an array of shape ({vocab_size},), got {array.shape}"
        )
    return array
