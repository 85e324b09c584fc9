"""One completion in the making, and the call that waits for it.

A `Generation` is a `Sequence` that knows its user: sampling parameters, text, stop conditions,
log-probabilities and times.  A `Job` is one call of the facade: the generations it has open, and
for a stream the chunks that nobody has fetched yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from pyroclast.engine.output import Chunk, Completion, FinishReason, Timings, TokenLogprobs
from pyroclast.engine.scheduler import Sequence
from pyroclast.engine.stop import StopText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyroclast.sampling.params import SamplingParams

    Rows = NDArray[np.float32]
    OnRows = Callable[[int, Rows], None]


class TextStream(Protocol):
    """What a tokenizer's `stream()` gives: token by token, text that is certain."""

    def step(self, token_id: int, /) -> str: ...
    def flush(self) -> str: ...


class PaddedTextStream:
    """A text stream for a model with more rows of logits than the tokenizer has tokens."""

    def __init__(self, text: TextStream, n_tokens: int) -> None:
        self._text, self._n_tokens = text, n_tokens
        self.flush = text.flush

    def step(self, token_id: int, /) -> str:
        """A token that the tokenizer does not know has no text."""
        return self._text.step(token_id) if token_id < self._n_tokens else ""


class Job:
    """One call's generations.  `chunks` is None unless the call streams.  step_bandwidth_share:
    of the memory bandwidth, what one step per second takes; 0 if that is not known."""

    __slots__ = ("arrived_s", "chunks", "error", "open", "step_bandwidth_share")

    def __init__(self, *, streams: bool = False, step_bandwidth_share: float = 0.0) -> None:
        self.arrived_s = perf_counter()
        self.step_bandwidth_share = step_bandwidth_share
        self.open: set[Work] = set()
        self.chunks: deque[Chunk] | None = deque() if streams else None
        self.error: Exception | None = None


class Work(Sequence):
    """A sequence that somebody waits for; by itself it is only read, and done when computed.

    The row of logits of position p tells about `targets[p]`, the token that follows.  `scored`,
    where there is one, gets the outcome at [p + 1], with the `n_top` most likely tokens.
    `on_rows(first_position, rows)` gets the logits (n_rows, vocab_size) themselves, a view that
    the next step overwrites."""

    __slots__ = ("job", "n_top", "on_rows", "scored", "targets")

    def __init__(
        self,
        token_ids: list[int],
        job: Job,
        *,
        targets: list[int] | None = None,
        scored: list[TokenLogprobs | None] | None = None,
        n_top: int = 0,
        on_rows: OnRows | None = None,
        sibling: Sequence | None = None,
    ) -> None:
        wants_rows = scored is not None or on_rows is not None
        super().__init__(token_ids, wants_prompt_rows=wants_rows, sibling=sibling)
        self.job = job
        self.targets = [0] * len(token_ids) if targets is None else targets
        self.scored = scored
        self.n_top = n_top
        self.on_rows = on_rows
        job.open.add(self)


class Clock:
    """When a generation came, started, gave its first token and its last (perf_counter)."""

    __slots__ = ("arrived_s", "end_s", "first_token_s", "started_s")

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s
        self.started_s: float | None = None
        self.first_token_s: float | None = None
        self.end_s = arrived_s

    def tick(self, start_s: float, end_s: float) -> None:
        """A step from `start_s` to `end_s` computed something of it."""
        self.end_s = end_s
        if self.started_s is None:
            self.started_s = start_s

    def timings(self, n_prompt: int, n_generated: int, step_bandwidth_share: float) -> Timings:
        """`step_bandwidth_share`: of the memory bandwidth, at one step per second."""
        started_s = self.end_s if self.started_s is None else self.started_s
        first_s = self.end_s if self.first_token_s is None else self.first_token_s
        prompt_s, decode_s = first_s - started_s, self.end_s - first_s
        decode_rate = (n_generated - 1) / decode_s if n_generated > 1 and decode_s > 0 else None
        has_prompt_rate = self.first_token_s is not None and prompt_s > 0
        return Timings(
            n_prompt_tokens=n_prompt,
            n_completion_tokens=n_generated,
            queue_s=started_s - self.arrived_s,
            prompt_s=prompt_s,
            decode_s=decode_s,
            first_token_s=None if self.first_token_s is None else first_s - self.arrived_s,
            total_s=self.end_s - self.arrived_s,
            prompt_tokens_per_s=n_prompt / prompt_s if has_prompt_rate else None,
            decode_tokens_per_s=decode_rate,
            bandwidth_share=decode_rate * step_bandwidth_share
            if decode_rate is not None and step_bandwidth_share > 0
            else None,
        )


class Generation(Work):
    """Grows by one sampled token a step until something ends it."""

    __slots__ = (
        "_flush",
        "_max_length",
        "_pieces",
        "_step_text",
        "_stop_text",
        "clock",
        "finish_reason",
        "index",
        "logprobs",
        "min_length",
        "params",
        "prompt_index",
        "seed",
        "stop_ids",
        "stop_reason",
    )

    def __init__(
        self,
        token_ids: list[int],
        job: Job,
        *,
        params: SamplingParams,
        seed: int,
        text: TextStream,
        stop_ids: dict[int, str | int],
        max_tokens: int,
        prompt_index: int = 0,
        index: int = 0,
        sibling: Sequence | None = None,
    ) -> None:
        """`stop_ids`: the tokens that end it, each with the stop reason that is reported."""
        wants_prompt = params.prompt_logprobs is not None
        super().__init__(
            token_ids,
            job,
            targets=token_ids[1:] if wants_prompt else [],
            scored=[None] * len(token_ids) if wants_prompt else None,
            n_top=params.prompt_logprobs or 0,
            sibling=None if wants_prompt else sibling,
        )
        self.params = params
        self.seed = seed
        self.prompt_index = prompt_index
        self.index = index
        self.clock = Clock(job.arrived_s)
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self.stop_ids = stop_ids
        self._stop_text = StopText(params.stop) if params.stop else None
        self._step_text = text.step
        self._flush = text.flush
        self._max_length = self.n_prompt + max_tokens
        self.min_length = self.n_prompt + params.min_tokens
        self._pieces: list[str] = []

    @property
    def n_generated(self) -> int:
        return len(self.token_ids) - self.n_prompt

    def accept(self, token_id: int) -> str:
        """Appends a sampled token; returns the text that it made certain.  Sets `finish_reason`
        if that was the last token.  The hot path: about a microsecond besides the tokenizer."""
        self.token_ids.append(token_id)
        n_tokens = len(self.token_ids)
        if n_tokens == self.n_prompt + 1:
            self.clock.first_token_s = self.clock.end_s
        if token_id in self.stop_ids and n_tokens >= self.min_length:
            self.stop_reason = self.stop_ids[token_id]
            return self.finish("stop")
        text = self._step_text(token_id)
        if self._stop_text is not None and n_tokens >= self.min_length:
            text = self._stop_text.push(text)
            if self._stop_text.found is not None:
                self.stop_reason = self._stop_text.found
                self.finish_reason = "stop"
        if text:
            self._pieces.append(text)
        if n_tokens >= self._max_length and self.finish_reason is None:
            text += self.finish("length")
        return text

    def finish(self, reason: FinishReason) -> str:
        """No more tokens; returns the text that had been held back."""
        self.finish_reason = reason
        text = self._flush()
        if self._stop_text is not None:
            text = self._stop_text.push(text) + self._stop_text.flush()
        if text:
            self._pieces.append(text)
        return text

    def emit(
        self, text: str, token_ids: list[int], logprobs: list[TokenLogprobs] | None = None
    ) -> None:
        """Hands a chunk to a stream's reader, if the call streams; the last one, complete in
        itself because the reader may be faster than whoever ran the step, says how it ended."""
        chunks = self.job.chunks
        if chunks is None:
            return
        chunk = Chunk(text, token_ids, self.index, self.finish_reason, logprobs)
        if self.finish_reason is not None:
            chunk.completion = self.completion()
        chunks.append(chunk)

    def completion(self) -> Completion:
        """What came of it, after the end."""
        assert self.finish_reason is not None, "completion() before the end"
        share = self.job.step_bandwidth_share
        return Completion(
            text="".join(self._pieces),
            token_ids=self.token_ids[self.n_prompt :],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            prompt_token_ids=self.token_ids[: self.n_prompt],
            seed=self.seed,
            timings=self.clock.timings(self.n_prompt, self.n_generated, share),
            prompt_index=self.prompt_index,
            index=self.index,
            logprobs=self.logprobs,
            prompt_logprobs=self.scored,
        )
