"""Contexts and their continuations as token ids: where one ends and the other begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from pyroclast.engine.checks import as_list
from pyroclast.errors import RequestError

Encode = Callable[[Any, str], list[int]]  # (prompt, what to call it) -> token ids, at least one


def pairs(contexts: Any, continuations: Any) -> list[tuple[Any, Any]]:
    """Each continuation with its context: one context for all of them, or one for each."""
    left, right = as_list(contexts), as_list(continuations)
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise RequestError(
            f"got {len(left)} contexts for {len(right)} continuations; give one for all of them, "
            "or one for each"
        )
    return list(zip(left, right, strict=True))


def encode_pair(
    encode: Encode, context: Any, continuation: Any, where: str
) -> tuple[list[int], int]:
    """(the token ids of both, how many of them are the context's).

    Texts are encoded together, because tokens may span the border; such a token counts as the
    continuation's.  Token ids are put side by side as they are."""
    context, continuation = _plain(context), _plain(continuation)
    are_texts = [isinstance(each, str) for each in (context, continuation)]
    if not any(are_texts):
        head = encode(context, f"the context of {where}")
        return head + encode(continuation, where), len(head)
    if not all(are_texts):
        raise RequestError(f"{where} and its context must both be text, or both token ids")
    if not continuation:
        raise RequestError(f"{where} is empty: give at least one character or token id")
    whole = encode(context + continuation, where)
    head = encode(context, f"the context of {where}")
    same = takewhile(lambda both: both[0] == both[1], zip(head, whole[:-1], strict=False))
    return whole, sum(1 for _ in same)


def _plain(prompt: Any) -> Any:
    """A mapping {"prompt": text} as the text that it holds."""
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else None
    return text if isinstance(text, str) else prompt
