"""A request to generate: sampling parameters, text, stop conditions, log-probabilities, times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroclast.engine.call import Call
from pyroclast.engine.clock import Clock
from pyroclast.engine.output import Chunk, Completion, FinishReason, TokenLogprobs
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.stop import StopText
from pyroclast.engine.text_decoder import TextDecoder

if TYPE_CHECKING:
    from pyroclast.engine.follower import Follower
    from pyroclast.model.adapters import AdapterKey
    from pyroclast.sampling.grammar import Matcher
    from pyroclast.sampling.params import SamplingParams


class RequestFailedError(Exception):
    """What one request alone brought in failed, before its step gave any token: a callable raised
    (the cause) or gave back something else than logits, or a grammar could not be followed.
    has_run: the model has run the step before that, and written its cache and its logits."""

    def __init__(self, request: GenerateRequest, reason: Exception, *, has_run: bool) -> None:
        super().__init__(str(reason))
        self.request, self.reason, self.has_run = request, reason, has_run


class GenerateRequest(ReadRequest):
    """Grows by sampled tokens, one a step or more with drafts, until something ends it.

    n_forced: how many tokens a grammar decided after the last one that was sampled.  n_answered:
    how many of the prompt's last tokens penalties count as the answer's.  takes_drafts: a user's
    callable sees no token that may turn out not to be in the text."""

    __slots__ = (
        "_flush",
        "_max_length",
        "_pieces",
        "_step_text",
        "_stop_text",
        "clock",
        "finish_reason",
        "follower",
        "index",
        "logprobs",
        "matcher",
        "min_length",
        "n_answered",
        "n_forced",
        "params",
        "prompt_index",
        "seed",
        "stop_ids",
        "stop_reason",
    )

    finish_reason: FinishReason | None
    stop_reason: str | int | None
    follower: Follower | None  # its text in the cache of a draft model

    def __init__(
        self,
        token_ids: list[int],
        call: Call,
        *,
        params: SamplingParams,
        seed: int,
        decoder: TextDecoder,
        stop_ids: dict[int, str | int],
        max_tokens: int,
        prompt_index: int = 0,
        index: int = 0,
        root: bytes = b"",
        matcher: Matcher | None = None,
        n_answered: int = 0,
        adapter: AdapterKey | None = None,
    ) -> None:
        """stop_ids: the tokens that end it, and the reasons reported.  matcher: its own."""
        wants_prompt = params.prompt_logprobs is not None
        super().__init__(
            token_ids,
            call,
            targets=token_ids[1:] if wants_prompt else [],
            scored=[None] * len(token_ids) if wants_prompt else None,
            n_top=params.prompt_logprobs or 0,
            root=root,
            adapter=adapter,
        )
        self.params, self.seed, self.stop_ids = params, seed, stop_ids
        self.prompt_index, self.index = prompt_index, index
        self.clock = Clock(call.arrived_s)
        self.finish_reason, self.stop_reason = None, None
        self.logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self._stop_text = StopText(params.stop) if params.stop else None
        self._step_text, self._flush = decoder.step, decoder.flush
        self._max_length = self.n_prompt + max_tokens
        self.min_length = self.n_prompt + params.min_tokens
        self._pieces: list[str] = []
        self.matcher, self.n_forced, self.n_answered = matcher, 0, n_answered
        self.follower, self.takes_drafts = None, not params.logits_processors

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None

    @property
    def is_live(self) -> bool:
        """Streams are."""
        return self.call.chunks is not None

    @property
    def tables_vary(self) -> bool:
        """Penalties count the tokens before a row, min_tokens forbids some up to a position, and a
        grammar allows other tokens after each."""
        return (
            self.params.has_penalties
            or len(self.token_ids) < self.min_length
            or self.matcher is not None
        )

    @property
    def max_drafts(self) -> int:
        """One less than the tokens that are still wanted."""
        return self._max_length - len(self.token_ids) - 1 if self.takes_drafts else 0

    def usable_drafts(self, draft_ids: list[int]) -> list[int]:
        """Those that may be tried: at most one less than the tokens that are still wanted, none
        that ends the text, and only what the grammar allows."""
        draft_ids = draft_ids[: self.max_drafts]
        for i, token_id in enumerate(draft_ids):
            if token_id in self.stop_ids:
                draft_ids = draft_ids[:i]
                break
        return draft_ids if self.matcher is None else self.matcher.allowed_of(draft_ids)

    @property
    def n_generated(self) -> int:
        return len(self.token_ids) - self.n_prompt

    def accept(self, token_id: int) -> str:
        """Appends a sampled token, and those that the grammar forces behind it; returns the text
        that became certain.  Sets `finish_reason` if that was the last token.  The hot path: about
        a microsecond besides the tokenizer."""
        text = self._take(token_id)
        if self.matcher is not None and self.finish_reason is None:
            text += self._take_forced(self.matcher)
        return text

    def _take_forced(self, matcher: Matcher) -> str:
        """Appends the tokens of which the grammar leaves no choice: their logits are not needed,
        unless somebody wants to see them."""
        self.n_forced = 0
        if self.logprobs is not None or self.params.logits_processors:
            return ""
        text = ""
        for token_id in matcher.forced():
            if self.finish_reason is not None:
                break
            text += self._take(token_id)
            self.n_forced += 1
        return text

    def _take(self, token_id: int) -> str:
        """One token more; returns the text that it made certain."""
        self.token_ids.append(token_id)
        n_tokens = len(self.token_ids)
        if n_tokens == self.n_prompt + 1:
            self.clock.first_token_s = self.clock.end_s
        if token_id in self.stop_ids and n_tokens >= self.min_length:
            self.stop_reason = self.stop_ids[token_id]
            return self.finish("stop")
        text = self._step_text(token_id)
        if self._stop_text is not None:
            text = self._stop_text.push(text, n_tokens >= self.min_length)
            if self._stop_text.found is not None:
                self.stop_reason = self._stop_text.found
                self.finish_reason = "stop"
        if text:
            self._pieces.append(text)
        if self.matcher is not None and self.finish_reason is None:
            self.matcher.accept(token_id)
            if self.matcher.ended:
                text += self.finish("stop")
        if n_tokens >= self._max_length and self.finish_reason is None:
            text += self.finish("length")
        return text

    def new_token_ids(self, token_id: int) -> list[int]:
        """The sampled token, which has been accepted, and those that it forced."""
        if not self.n_forced:
            return [token_id]
        n_new, self.n_forced = 1 + self.n_forced, 0
        return self.token_ids[-n_new:]

    def abort(self) -> None:
        """It ends before its end, with what it has; an error of its call says it all."""
        text = self.finish("abort")
        if self.call.error is None:
            self.emit(text, [])

    def finish(self, reason: FinishReason) -> str:
        """No more tokens; returns the text that had been held back."""
        self.finish_reason = reason
        text = self._flush()
        if self._stop_text is not None:
            counts = len(self.token_ids) >= self.min_length
            text = self._stop_text.push(text, counts) + self._stop_text.flush()
        if text:
            self._pieces.append(text)
        return text

    def emit(
        self, text: str, token_ids: list[int], logprobs: list[TokenLogprobs] | None = None
    ) -> bool:
        """Adds a chunk to the call's, if it collects them; tells whether as many wait as may.  The
        last chunk carries the completion: the reader may be faster than whoever ran the step."""
        call = self.call
        if call.chunks is None:
            return False
        completion = None if self.finish_reason is None else self.completion()
        n_prompt, n_generated = self.n_prompt, len(self.token_ids) - self.n_prompt
        # Not by name: a class called with names packs them into a dict first.
        chunk = Chunk(
            text,
            token_ids,
            self.index,
            self.finish_reason,
            logprobs,
            completion,
            n_prompt,
            self.n_cached,
            n_generated,
        )
        call.chunks.append(chunk)
        if call.future is not None:
            call.note()
        return len(call.chunks) >= call.max_unread

    def completion(self) -> Completion:
        """The result; only after the end."""
        assert self.finish_reason is not None, "completion() before the end"
        share = self.call.step_bandwidth_share
        return Completion(
            text="".join(self._pieces),
            token_ids=self.token_ids[self.n_prompt :],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            prompt_token_ids=self.token_ids[: self.n_prompt],
            seed=self.seed,
            timings=self.clock.timings(self.n_prompt, self.n_cached, self.n_generated, share),
            prompt_index=self.prompt_index,
            index=self.index,
            logprobs=self.logprobs,
            prompt_logprobs=self.scored,
        )
