"""What callers hand in, checked before any work: prompts, sampling parameters, room."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from pyroclast.errors import ContextOverflowError, RequestError
from pyroclast.sampling.params import SamplingParams

Prompt: TypeAlias = str | Sequence[int]
Prompts: TypeAlias = Prompt | Sequence[Prompt]
Params: TypeAlias = SamplingParams | Sequence[SamplingParams] | None

PRIORITIES = ("interactive", "batch")


class Encoder(Protocol):
    """What is needed of a tokenizer to read prompts."""

    def encode(self, text: str, /, add_special_tokens: bool = ...) -> list[int]: ...


def check_embeddings(embeddings: bool, dimensions: int | None) -> None:
    """RequestError unless the model keeps the states that embeddings are made of."""
    if not embeddings:
        raise RequestError("this model keeps no states; load it with LLM(..., embeddings=True)")
    if dimensions is not None:
        check_positive("dimensions", dimensions)


def as_list(prompts: Any) -> list[Any]:
    """One prompt (text or token ids) or several of them -> a list of prompts."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise RequestError(
            "a prompt must be text, a list of token ids, or a list of either; "
            f"got {type(prompts).__name__}"
        )
    items = list(prompts)
    if not items:
        raise RequestError("the prompt is empty: give at least one character or token id")
    several = isinstance(items[0], Iterable)  # text, or token ids
    return items if several else [items]


def encode(
    prompt: Any,
    tokenizer: Encoder,
    vocab_size: int,
    where: str,
    add_special_tokens: bool = True,
) -> list[int]:
    """Text or token ids -> token ids that exist, at least one.  `where` names the prompt."""
    if not isinstance(add_special_tokens, bool):
        raise RequestError(f"add_special_tokens must be True or False, got {add_special_tokens!r}")
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError(f"{where} is empty: give at least one character or token id")
        token_ids = tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
    elif isinstance(prompt, bytes) or not isinstance(prompt, Iterable):
        raise RequestError(
            f"{where} must be text or a list of token ids, got {type(prompt).__name__}"
        )
    else:
        token_ids = [_token_id(value, where) for value in prompt]
    if not token_ids:
        raise RequestError(f"{where} is empty: give at least one character or token id")
    for token_id in (min(token_ids), max(token_ids)):
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"{where} holds the token id {token_id}, but the vocabulary has only ids 0 to "
                f"{vocab_size - 1}"
            )
    return token_ids


def _token_id(value: Any, where: str) -> int:
    """A Python int from any integer type; True and False are a mistake, not 1 and 0."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass  # the error below names the type
    raise RequestError(
        f"{where} must be text or whole token ids, got {value!r} ({type(value).__name__}) in it"
    )


def check_one(n_prompts: int, method: str, remedy: str) -> None:
    if n_prompts != 1:
        raise RequestError(f"{method}() takes one prompt, got {n_prompts}{remedy}")


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_priority(priority: Any) -> None:
    if priority not in PRIORITIES:
        raise RequestError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")


def as_params(params: Any, n_prompts: int) -> list[SamplingParams]:
    """None, one SamplingParams for all prompts, or one for each."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * n_prompts
    found = list(params) if isinstance(params, Sequence) else [params]
    if not all(isinstance(each, SamplingParams) for each in found):
        raise RequestError(
            f"params must be a SamplingParams or a list of them, got {type(params).__name__}; "
            "write SamplingParams(temperature=0.7, max_tokens=64)"
        )
    if len(found) != n_prompts:
        raise RequestError(f"got {len(found)} SamplingParams for {n_prompts} prompts")
    return found


def check_fits(n_prompt: int, max_seq_len: int, where: str) -> None:
    """Raises unless a text of `n_prompt` tokens fits the context."""
    if n_prompt > max_seq_len:
        raise ContextOverflowError(
            f"{where} has {n_prompt} tokens, but the context holds {max_seq_len}; shorten it"
        )


def resolve_max_tokens(params: SamplingParams, n_prompt: int, max_seq_len: int, where: str) -> int:
    """How many tokens may be generated: what was asked for, or all that there is room for."""
    room = max_seq_len - n_prompt
    if room < 1:
        raise ContextOverflowError(
            f"{where} has {n_prompt} tokens, but the context holds {max_seq_len}, and an answer "
            "needs room for at least one more; shorten it"
        )
    wanted = room if params.max_tokens is None else params.max_tokens
    if wanted > room:
        raise ContextOverflowError(
            f"{where} has {n_prompt} tokens and max_tokens is {wanted}, but the context holds "
            f"{max_seq_len}; use max_tokens={room} at most, or None for what there is room for"
        )
    if params.min_tokens > room:
        raise ContextOverflowError(
            f"{where} has {n_prompt} tokens and min_tokens is {params.min_tokens}, but the "
            f"context holds {max_seq_len}"
        )
    return wanted
