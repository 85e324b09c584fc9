"""What each field of `SamplingParams` may be: a check by name, which returns the value as it is
kept or raises a SamplingError that says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from operator import index
from typing import Any

from pyroclast.errors import SamplingError

# (token ids so far: prompt and output, logits float32 (vocab_size,)) -> logits of the same shape;
# the array may be changed in place and returned.
LogitsProcessor = Callable[[Sequence[int], Any], Any]

MAX_LOGPROBS = 128  # most likely tokens reported per position; fixes the size of an output array
MAX_LOGIT_BIASES = 1024
_MAX_COUNT = 2**31 - 1
_MAX_SALT_CHARS = 1024


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _number(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise SamplingError(f"{name} must be {allowed}, got {_shown(value)}") from None


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


def _structured(name: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    from pyroclast.sampling.structured import check_structured  # late: few requests have any

    return check_structured(name, value)


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
        number = _number(name, bias, allowed)
        if math.isnan(number) or number > 3.4e38:
            raise SamplingError(f"{name} must be {allowed}, got {_shown(bias)} for {_shown(key)}")
        found[_whole(name, _token_id(key), allowed, 0, _MAX_COUNT)] = number
    return found


def _token_id(key: Any) -> Any:
    """JSON keys are strings.  One of more digits than Python reads stays what it is."""
    try:
        return int(key) if isinstance(key, str) and key.isdecimal() else key
    except ValueError:
        return key


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

CHECKS: dict[str, Callable[[str, Any], Any]] = {
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
    "structured": _structured,
    "skip_special_tokens": _flag,
    "cache_salt": _optional(_salt),
}
