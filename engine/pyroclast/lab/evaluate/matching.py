"""Regular expressions over generated texts, under a deadline: a pattern may backtrack for ever."""

from __future__ import annotations

from typing import Any

from pyroclast.errors import PyroclastError, RequestError

SECONDS = 1.0  # for one text


def compiled(patterns: set[str]) -> dict[str, Any]:
    """Each pattern, compiled.  RequestError for one that is none, or where the library `regex`,
    which knows deadlines, is not installed."""
    if not patterns:
        return {}
    try:
        import regex
    except ImportError as error:
        raise RequestError(
            "items with regex need the extra [eval]: `pip install 'pyroclast-lm[eval]'`"
        ) from error
    found = {}
    for pattern in sorted(patterns):
        try:
            found[pattern] = regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            raise RequestError(f"regex {pattern[:80]!r} is not valid: {error}") from error
    return found


def is_found(pattern: Any, text: str) -> bool:
    """Whether the compiled pattern occurs in the text."""
    try:
        return pattern.search(text, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise PyroclastError(
            f"regex {pattern.pattern[:80]!r} takes more than {SECONDS:g} s on a text of "
            f"{len(text)} characters"
        ) from error
