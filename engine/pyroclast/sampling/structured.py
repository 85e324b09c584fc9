"""`SamplingParams.structured`: what a text must look like, checked as far as no model is needed.

One of {"json": schema}, {"json_object": True}, {"regex": text}, {"choice": [texts]} and
{"grammar": text}, Lark or GBNF.  With "after" beside it, it holds what follows the reasoning: see
the module of that name.  `grammar` compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.after import check_after
from pyroclast.sampling.schema import check_enforced

MAX_CHARS = 1 << 19  # of a schema or grammar; the largest public schemas have a tenth of it
MAX_CHOICES = 4096
MAX_DEPTH = 64  # of a schema: objects and lists in one another
AFTER = "after"
KINDS = ("json", "json_object", "regex", "choice", "grammar")


def check_structured(name: str, value: Any) -> dict[str, Any] | None:
    """{kind: what it takes}, a JSON schema as text, and "after".  SamplingError for anything
    else."""
    if value is None:
        return None
    allowed = f"None or a mapping with one of the keys {', '.join(KINDS)}"
    if not isinstance(value, Mapping):
        raise SamplingError(f"{name} must be {allowed}, got {type(value).__name__}")
    given = {kind: each for kind, each in value.items() if each is not None}
    after = given.pop(AFTER, None)
    if len(given) != 1 or next(iter(given)) not in KINDS:
        found = ", ".join(sorted(str(kind)[:40] for kind in given)) or "none"
        raise SamplingError(f"{name} must be {allowed}, got the keys: {found}")
    kind, content = next(iter(given.items()))
    checked = {kind: _CHECKS[kind](f"{name}[{kind!r}]", content)}
    return checked if after is None else checked | {AFTER: check_after(f"{name}[{AFTER!r}]", after)}


def _schema(name: str, value: Any) -> str:
    """A schema as JSON text, from a mapping, a bool, JSON text, or a Pydantic model class."""
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, str):
        try:
            value = json.loads(_text(name, value))
        except (ValueError, RecursionError) as error:
            raise SamplingError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, Mapping | bool):
        raise SamplingError(
            f"{name} must be a JSON schema (a mapping, or its JSON text), got "
            f"{type(value).__name__}"
        )
    # Its length first: the walks below take many times as long as writing it.
    text = _text(name, _written(name, value))
    _check_depth(name, value)
    check_enforced(name, value)
    return text


def _written(name: str, schema: Any) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise _too_deep(name) from None
    except (TypeError, ValueError) as error:
        raise SamplingError(f"{name} is no JSON schema: {error}") from None


def _check_depth(name: str, value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
        if not inner:
            return
        level = inner
    raise _too_deep(name)


def _too_deep(name: str) -> SamplingError:
    return SamplingError(f"{name} must be nested at most {MAX_DEPTH} levels deep")


def _true(name: str, value: Any) -> bool:
    if value is not True:
        raise SamplingError(f"{name} must be True, got {value!r:.80}")
    return True


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SamplingError(f"{name} must be a text that is not empty, got {value!r:.80}")
    if len(value) > MAX_CHARS:
        raise SamplingError(f"{name} must have at most {MAX_CHARS} characters, got {len(value)}")
    return value


def _choices(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SamplingError(f"{name} must be a list of texts, got {value!r:.80}")
    if not 1 <= len(value) <= MAX_CHOICES:
        raise SamplingError(f"{name} must have 1 to {MAX_CHOICES} texts, got {len(value)}")
    if not all(isinstance(each, str) and each for each in value):
        raise SamplingError(f"{name} must hold texts that are not empty")
    _text(name, "".join(value))
    return tuple(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "json": _schema,
    "json_object": _true,
    "regex": _text,
    "choice": _choices,
    "grammar": _text,
}
