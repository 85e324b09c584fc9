"""What generation gives back: plain data, no arrays, ready for JSON through `as_dict`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(slots=True)
class TokenLogprobs:
    """How likely the model itself held one token (before temperature, penalties and cuts)."""

    token_id: int
    logprob: float  # natural logarithm of its probability
    rank: int  # 1 + the number of tokens that were strictly more likely
    is_greedy: bool  # temperature 0 would have chosen this token
    top: list[tuple[int, float]] = field(default_factory=list)  # (token id, logprob), best first


@dataclass(slots=True)
class DraftCount:
    """Drafts of one source: how many were tried, and how many of them became tokens."""

    n_drafted: int = 0
    n_accepted: int = 0


@dataclass(slots=True)
class Timings:
    """Where the time of one completion went, in seconds and tokens per second.

    Other requests in the same steps slow a request down: these are the times that its user saw.
    A rate is None where nothing was measured (no second token, no prompt)."""

    n_prompt_tokens: int
    n_cached_tokens: int  # of the prompt: found in the KV cache, not computed
    n_completion_tokens: int
    n_drafted_tokens: int  # tried beside the last token of the text, to verify them in one step
    n_accepted_tokens: int  # of these: became tokens of the text
    queue_s: float  # from the call to the first step that computed some of the prompt
    prompt_s: float  # from there to the end of the prompt
    decode_s: float  # from the first token to the last
    first_token_s: float | None  # from the call to the first token
    total_s: float
    prompt_tokens_per_s: float | None  # of those that were computed
    decode_tokens_per_s: float | None
    bandwidth_share: float | None  # weights read per second of decoding / the measured bandwidth
    # By where they came from: "suffix" (the text itself), "draft" (the draft model), "mtp" (the
    # model's own head).
    drafts: dict[str, DraftCount] = field(default_factory=dict)


@dataclass(slots=True)
class Completion:
    """One answer.  `token_ids` holds every generated token, including a final end-of-text token or
    the tokens of a stop string; `text` ends before them."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None  # the stop string or token id that ended it
    prompt_token_ids: list[int]
    seed: int  # the seed that gives this text again, even if none was asked for
    timings: Timings
    prompt_index: int = 0  # which prompt of the call
    index: int = 0  # which of the `n` completions of that prompt
    logprobs: list[TokenLogprobs] | None = None  # one per generated token, if asked for
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # the first has no context: None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Chunk:
    """What one step added to a completion: mostly one token.  `text` may be empty (half a
    character, or held back because it could begin a stop string); joined together the texts are
    the completion's text.  The numbers count up to and with this chunk, ready for `usage`."""

    text: str  # the new text
    token_ids: list[int]  # the new tokens; none in a last chunk that only ends the text
    index: int = 0  # which of the `n` completions
    finish_reason: FinishReason | None = None  # with the last chunk of each completion
    logprobs: list[TokenLogprobs] | None = None  # of the new tokens, if asked for
    completion: Completion | None = None  # with the last chunk of each completion
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0  # of the prompt: found in the KV cache, not computed
    n_completion_tokens: int = 0


@dataclass(slots=True)
class Score:
    """How likely the model holds each token of a given text, in its place."""

    token_ids: list[int]  # of the whole text, its context among them
    logprobs: list[TokenLogprobs | None]  # one per token; None for the first and for a context's

    @property
    def logprob(self) -> float:
        """Of all tokens that were scored: the sum."""
        return math.fsum(token.logprob for token in self.logprobs if token is not None)

    @property
    def perplexity(self) -> float:
        """exp(- mean logprob); 1.0 for a single token, where there is nothing to predict."""
        n_scored = sum(token is not None for token in self.logprobs)
        return math.exp(-self.logprob / n_scored) if n_scored else 1.0

    @property
    def is_greedy(self) -> bool:
        """Greedy decoding would have given exactly the tokens that were scored."""
        return all(token.is_greedy for token in self.logprobs if token is not None)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "logprob": self.logprob, "perplexity": self.perplexity}
