"""`SamplingParams`: how a request chooses its tokens.  vLLM's names, checked when they are set.

The defaults are vLLM's: temperature 1, no cut, no penalty, which is the model's own distribution.
`max_tokens` differs: vLLM and OpenAI stop after 16 tokens by default, which surprises newcomers.
Here the default, None, means until the model ends the text or the context is full.
`pyroclast_kernels.sample.reference` defines the order of the stages.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index
from typing import Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.structured import check_structured

# (token ids so far: prompt and output, logits float32 (vocab_size,)) -> logits of the same shape;
# the array may be changed in place and returned.
LogitsProcessor = Callable[[Sequence[int], Any], Any]

MAX_LOGPROBS = 128  # most likely tokens reported per position; fixes the size of an output array
MAX_LOGIT_BIASES = 1024
_MAX_COUNT = 2**31 - 1
_MAX_SALT_CHARS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample.  The defaults leave the model's own distribution unchanged."""

    n: int = 1  # completions of each prompt
    temperature: float = 1.0  # 0 (below 1e-5): greedy
    top_p: float = 1.0  # 1: off; 0: only the most likely token
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # over prompt and output; 1: off, above 1 discourages
    presence_penalty: float = 0.0  # over the output; above 0 discourages
    frequency_penalty: float = 0.0  # over the output; above 0 discourages
    seed: int | None = None  # None: a fresh one for each request, reported with the completion
    max_tokens: int | None = None  # None: until the end of the text or of the context
    min_tokens: int = 0  # no end-of-text or stop token, and no end of a stop string, before these
    stop: tuple[str, ...] = ()  # one string or a sequence; the text ends before the first match
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; k: of each token, and of the k most likely
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None  # None: all
    logits_processors: tuple[LogitsProcessor, ...] = ()
    # One of json (a schema), json_object (True), regex, choice (texts), grammar (Lark or GBNF);
    # with after: the marks of the reasoning that comes first.
    structured: Mapping[str, Any] | None = None
    skip_special_tokens: bool = True  # False: the text shows the names of control tokens
    cache_salt: str | None = None  # requests with other salts share no cached blocks with it

    def __new__(cls, *args: Any, **params: Any) -> SamplingParams:
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
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}"
            )

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> SamplingParams:
        """From JSON or keyword arguments; unknown names are errors, as in the constructor."""
        return cls(**{str(name): value for name, value in params.items()})

    def replace(self, **changes: Any) -> SamplingParams:
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
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return SamplingError(f"unknown sampling parameter {name!r}; {hint}known: {', '.join(known)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    return float(value)


def _real(allowed: str, ok: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        number = _number(name, value, allowed)
        if not math.isfinite(number) or not ok(number):
            raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
        return number

    return check


def _whole(name: str, value: Any, allowed: str, low: int, high: int) -> int:
    try:
        number = low - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    return number


def _count(allowed: str, low: int, high: int = _MAX_COUNT) -> Callable[[str, Any], int]:
    return lambda name, value: _whole(name, value, allowed, low, high)


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _top_k(name: str, value: Any) -> int:
    allowed = "a whole number: how many tokens to keep, 0 or -1 for all"
    return max(0, _whole(name, value, allowed, -1, _MAX_COUNT))


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SamplingError(f"{name} must be True or False, got {_shown(value)}")
    return value


def _salt(name: str, value: Any) -> str:
    is_text = isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    if not is_text or not 0 < len(value) <= _MAX_SALT_CHARS:
        raise SamplingError(
            f"{name} must be None or a text of 1 to {_MAX_SALT_CHARS} characters, got "
            f"{_shown(value)}"
        )
    return str(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    allowed = "a non-empty string or a sequence of them"
    values = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(values, Iterable):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    found = tuple(values)
    if not all(isinstance(text, str) and text for text in found):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    return found


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    allowed = "a sequence of token ids (whole numbers from 0)"
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    return tuple(_whole(name, token_id, allowed, 0, _MAX_COUNT) for token_id in value)


def _some_token_ids(name: str, value: Any) -> tuple[int, ...]:
    found = _token_ids(name, value)
    if not found:
        raise SamplingError(f"{name} must name at least one token, got {_shown(value)}")
    return found


def _biases(name: str, value: Any) -> dict[int, float]:
    allowed = (
        f"a mapping of at most {MAX_LOGIT_BIASES} token ids to finite numbers, or to -inf for "
        "tokens that must not be chosen"
    )
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_LOGIT_BIASES:
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    found = {}
    for key, bias in value.items():
        token_id = (
            int(key) if isinstance(key, str) and key.isdecimal() else key
        )  # JSON keys are strings
        number = _number(name, bias, allowed)
        if math.isnan(number) or number > 3.4e38:
            raise SamplingError(f"{name} must be {allowed}, got {_shown(bias)} for {_shown(key)}")
        found[_whole(name, token_id, allowed, 0, _MAX_COUNT)] = number
    return found


def _processors(name: str, value: Any) -> tuple[LogitsProcessor, ...]:
    allowed = "callables of (token_ids, logits) that return the logits"
    if value is None:
        return ()
    if not isinstance(value, Iterable):
        raise SamplingError(f"{name} must be a sequence of {allowed}, got {_shown(value)}")
    found = tuple(value)
    if not all(callable(processor) for processor in found):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    return found


_SHARE = "a number from 0 to 1"
_PENALTY = "a number from -2 to 2"
_LOGPROBS = f"None or a whole number from 0 to {MAX_LOGPROBS}"

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "n": _count("a whole number from 1", 1),
    "temperature": _real("a finite number >= 0 (0 for greedy)", lambda x: x >= 0),
    "top_p": _real(f"{_SHARE} (1 for off)", lambda x: 0 <= x <= 1),
    "top_k": _top_k,
    "min_p": _real(f"{_SHARE} (0 for off)", lambda x: 0 <= x <= 1),
    "typical_p": _real(f"{_SHARE} (1 for off)", lambda x: 0 <= x <= 1),
    "top_n_sigma": _real("a finite number >= 0 (0 for off)", lambda x: x >= 0),
    "repetition_penalty": _real("a finite number > 0 (1 for off)", lambda x: x > 0),
    "presence_penalty": _real(f"{_PENALTY} (0 for off)", lambda x: -2 <= x <= 2),
    "frequency_penalty": _real(f"{_PENALTY} (0 for off)", lambda x: -2 <= x <= 2),
    "seed": _optional(_count("None or a whole number from 0 to 2**64 - 1", 0, 2**64 - 1)),
    "max_tokens": _optional(_count("None or a whole number from 1", 1)),
    "min_tokens": _count("a whole number from 0", 0),
    "stop": _strings,
    "stop_token_ids": _token_ids,
    "ignore_eos": _flag,
    "logprobs": _optional(_count(_LOGPROBS, 0, MAX_LOGPROBS)),
    "prompt_logprobs": _optional(_count(_LOGPROBS, 0, MAX_LOGPROBS)),
    "logit_bias": _biases,
    "allowed_token_ids": _optional(_some_token_ids),
    "logits_processors": _processors,
    "structured": check_structured,
    "skip_special_tokens": _flag,
    "cache_salt": _optional(_salt),
}
