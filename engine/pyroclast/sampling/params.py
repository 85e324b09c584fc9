"""`SamplingParams`: how a request chooses its tokens.  vLLM's names, checked when they are set.

The defaults are vLLM's: temperature 1, no cut, no penalty, which is the model's own distribution.
`max_tokens` differs: vLLM and OpenAI stop after 16 tokens by default, which surprises newcomers.
Here the default, None, means until the model ends the text or the context is full.
`pyroclast_kernels.sample.reference` defines the order of the stages.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.param_checks import CHECKS, LogitsProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample.  The defaults leave the model's own distribution unchanged; a value out of
    range or an unknown name is a SamplingError that says what is allowed.

    n: completions of each prompt.
    temperature: logits are divided by it; 0 (below 1e-5) takes the most likely token, greedily.
    top_p: keep the most likely tokens until they hold this probability; 1: off.
    top_k: keep this many tokens; 0 or -1: off.
    min_p: keep tokens at least this times as likely as the most likely one; 0: off.
    typical_p: keep the tokens of typical surprise that hold this probability; 1: off.
    top_n_sigma: keep logits within this many standard deviations of the maximum; 0: off.
    repetition_penalty: over prompt and output; 1: off, above 1 discourages.
    presence_penalty, frequency_penalty: over the output; 0: off, above 0 discourages.
    seed: None: a fresh one for each request, reported with the completion.
    max_tokens: None: until the end of the text or of the context.
    min_tokens: no end-of-text or stop token, and no end of a stop string, before these.
    stop: a string or several; the text ends before the first match.
    stop_token_ids: tokens that end the text.
    ignore_eos: do not stop at end-of-text tokens.
    logprobs: None: none; k: of each token, and of the k most likely.
    prompt_logprobs: the same for the prompt's tokens.
    logit_bias: token id -> what is added to its logit; -inf forbids the token.
    allowed_token_ids: only these may be chosen; None: all.
    logits_processors: callables of (token ids so far, logits float32 (vocab_size,)) that return
      logits of the same shape, changed in place or not.
    structured: one of json (a schema), json_object (True), regex, choice (texts), grammar (Lark or
      GBNF); with after: the marks of the reasoning that comes first.
    skip_special_tokens: False: the text shows the names of control tokens.
    cache_salt: requests with other salts share no cached blocks with this one.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    structured: Mapping[str, Any] | None = None
    skip_special_tokens: bool = True
    cache_salt: str | None = None

    if TYPE_CHECKING:  # what may be given; the fields say what is kept of it

        def __init__(
            self,
            *,
            n: int = ...,
            temperature: float = ...,
            top_p: float = ...,
            top_k: int = ...,
            min_p: float = ...,
            typical_p: float = ...,
            top_n_sigma: float = ...,
            repetition_penalty: float = ...,
            presence_penalty: float = ...,
            frequency_penalty: float = ...,
            seed: int | None = ...,
            max_tokens: int | None = ...,
            min_tokens: int = ...,
            stop: str | Iterable[str] | None = ...,
            stop_token_ids: Iterable[int] | None = ...,
            ignore_eos: bool = ...,
            logprobs: int | None = ...,
            prompt_logprobs: int | None = ...,
            logit_bias: Mapping[int, float] | Mapping[str, float] | None = ...,
            allowed_token_ids: Iterable[int] | None = ...,
            logits_processors: Iterable[LogitsProcessor] | None = ...,
            structured: Mapping[str, Any] | None = ...,
            skip_special_tokens: bool = ...,
            cache_salt: str | None = ...,
        ) -> None: ...

    def __new__(cls, /, *args: Any, **params: Any) -> SamplingParams:
        """Checks the names first, so that a misspelt one is a SamplingError with a hint."""
        if args:
            raise SamplingError(
                "SamplingParams takes its parameters by name: SamplingParams(temperature=0.7)"
            )
        for name in params:
            if name not in cls.__dataclass_fields__:
                raise _unknown(name, list(cls.__dataclass_fields__))
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}"
            )

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> SamplingParams:
        """From JSON or keyword arguments; unknown names are errors, as in the constructor."""
        return cls(**{str(name): value for name, value in params.items()})

    def replace(self, /, **changes: Any) -> SamplingParams:
        """A copy with some parameters changed, checked again."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Every parameter by name; not deep: processors stay callables."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken: temperature below 1e-5."""
        return self.temperature < 1e-5

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens so far change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    def fixed_seed(self) -> int:
        """The seed, or a fresh random one: call it once per request and keep what it returns."""
        return self.seed if self.seed is not None else int.from_bytes(os.urandom(8), "little") >> 1

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises unless every token id named in the parameters exists."""
        for name in ("stop_token_ids", "logit_bias", "allowed_token_ids"):
            bad = [t for t in getattr(self, name) or () if t >= vocab_size]
            if bad:
                raise SamplingError(
                    f"{name} names token {bad[0]}, but the vocabulary has only ids 0 to "
                    f"{vocab_size - 1}"
                )


def _unknown(name: str, known: list[str]) -> SamplingError:
    import difflib  # late: only a misspelt name needs it

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return SamplingError(f"unknown sampling parameter {name!r}; {hint}known: {', '.join(known)}")


# What may be given, where that is more than what is kept.
_GIVEN = {
    "stop": "str | Iterable[str] | None",
    "stop_token_ids": "Iterable[int] | None",
    "logit_bias": "Mapping[int, float] | Mapping[str, float] | None",
    "allowed_token_ids": "Iterable[int] | None",
    "logits_processors": "Iterable[LogitsProcessor] | None",
}

# Without this, help() would show __new__'s (*args, **params).
SamplingParams.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default={} if field.name == "logit_bias" else field.default,
            annotation=_GIVEN.get(field.name, field.type),
        )
        for field in dataclasses.fields(SamplingParams)
    ]
)
