"""What callers hand in, checked before any work: prompts, sampling parameters, room."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pyroclast.errors import ContextOverflowError, RequestError
from pyroclast.model.adapters import BASE, AdapterKey
from pyroclast.sampling.param_checks import MAX_LOGPROBS
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prompt: TypeAlias = "str | Sequence[int] | NDArray[np.integer[Any]] | Mapping[str, Any]"
Prompts: TypeAlias = "Prompt | Sequence[Prompt]"
Params: TypeAlias = SamplingParams | Sequence[SamplingParams] | None
AdapterNames: TypeAlias = str | Sequence[str | None] | None

# How vLLM spells a prompt in a mapping, and what a tokenizer of transformers gives.
_PROMPT_KEYS = ("prompt", "prompt_token_ids", "input_ids")
PRIORITIES = ("interactive", "batch")
_TAKEN_VARIABLES = {"self", "messages"}  # variables reach the tokenizer beside these arguments


class Encoder(Protocol):
    """What is needed of a tokenizer to read prompts."""

    def encode(self, text: str, /, add_special_tokens: bool = ...) -> list[int]: ...


def check_embeddings(embeddings: bool, dimensions: int | None, d_model: int) -> None:
    """RequestError unless the model keeps the states that embeddings are made of, and has as many
    dimensions as are asked for."""
    if not embeddings:
        raise RequestError("this model keeps no states; load it with LLM(..., embeddings=True)")
    if dimensions is None:
        return
    check_positive("dimensions", dimensions)
    if dimensions > d_model:
        raise RequestError(
            f"dimensions must be at most {d_model}, which this model has, got {dimensions}"
        )


def find_adapter(name: Any, known: Mapping[str, AdapterKey]) -> AdapterKey:
    """The adapter of that name, or the base model's key for None; RequestError, with the names
    that there are, for any other."""
    if name is None:
        return BASE
    if not isinstance(name, str) or name not in known:
        there = ", ".join(known) or "none; load them with LLM(..., adapters={name: path})"
        raise RequestError(f"there is no adapter {name!r:.100}; this model has: {there}")
    return known[name]


def find_adapters(names: Any, known: Mapping[str, AdapterKey]) -> AdapterKey | list[AdapterKey]:
    """The adapter of a name, or those of a list of names."""
    if isinstance(names, list | tuple):
        return [find_adapter(each, known) for each in names]
    return find_adapter(names, known)


def as_list(prompts: Any) -> list[Any]:
    """One prompt (text, token ids, or a mapping of either) or several of them -> a list of
    prompts.  An empty list holds no prompts."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    items = _items(prompts, "a prompt")
    return items if not items or _is_prompt(items[0]) else [items]


def encode(
    prompt: Any,
    tokenizer: Encoder,
    vocab_size: int,
    where: str,
    add_special_tokens: bool = True,
) -> list[int]:
    """Text, token ids, or a mapping of either -> token ids that exist, at least one.  `where` names
    the prompt."""
    flag("add_special_tokens", add_special_tokens)
    if isinstance(prompt, Mapping):
        prompt = _inside(prompt, where)
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError(f"{where} is empty: give at least one character or token id")
        token_ids = tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
    else:
        token_ids = [_token_id(value, where) for value in _items(prompt, where)]
    if not token_ids:
        raise RequestError(f"{where} is empty: give at least one character or token id")
    for token_id in (min(token_ids), max(token_ids)):
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"{where} holds the token id {token_id}, but the vocabulary has only ids 0 to "
                f"{vocab_size - 1}"
            )
    return token_ids


def _items(prompt: Any, where: str) -> list[Any]:
    """What a list, an array or a tensor holds; RequestError for all that is none."""
    # Bytes are neither text nor ids; a set has no order.
    if isinstance(prompt, Iterable) and not isinstance(
        prompt, bytes | bytearray | memoryview | Set
    ):
        n_dimensions = getattr(prompt, "ndim", None)
        if n_dimensions != 0:
            try:
                # An array or tensor of plain ints, not of arrays and tensors without dimensions.
                plain = getattr(prompt, "tolist", None)
                return list(plain() if n_dimensions == 1 and plain is not None else prompt)
            except TypeError:
                pass  # it only looks as if it could be iterated over: the error below names it
    raise RequestError(
        f"{where} must be text, a list of token ids, or a mapping with one of "
        f"{', '.join(_PROMPT_KEYS)}; got {_kind(prompt)}"
    )


def _is_prompt(item: Any) -> bool:
    """Whether what a list begins with is a prompt itself, not a token id."""
    if isinstance(item, str | bytes | bytearray | Mapping):
        return True
    try:
        operator.index(item)
    except TypeError:
        return isinstance(item, Iterable) and getattr(item, "ndim", None) != 0
    # A tensor of one id has an __index__ as well; one without dimensions is an id.
    return isinstance(item, Iterable) and getattr(item, "ndim", 0) > 0


def _inside(prompt: Mapping[Any, Any], where: str) -> Any:
    """The text or token ids of {"prompt": ...}, {"prompt_token_ids": ...} or what a tokenizer of
    transformers gives."""
    found = [key for key in _PROMPT_KEYS if prompt.get(key) is not None]
    if len(found) != 1:
        raise RequestError(
            f"{where} is a mapping, which must have one of the keys {', '.join(_PROMPT_KEYS)}; got "
            f"{', '.join(map(repr, prompt)) or 'none'}"
        )
    value = prompt[found[0]]
    takes_text = found[0] == "prompt"
    if isinstance(value, str) == takes_text:
        return value
    wanted = "text" if takes_text else "token ids"
    raise RequestError(f"{where}[{found[0]!r}] must be {wanted}, got {_kind(value)}")


def _kind(value: Any) -> str:
    """A value's type, for people."""
    n_dimensions = getattr(value, "ndim", None)
    name = type(value).__name__
    return name if not isinstance(n_dimensions, int) else f"{name} of {n_dimensions} dimensions"


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


def check_answered(n_answered: Any, n_prompt: int) -> None:
    if isinstance(n_answered, bool) or not isinstance(n_answered, int):
        raise RequestError(f"n_answered must be a whole number, got {n_answered!r}")
    if not 0 <= n_answered <= n_prompt:
        raise RequestError(
            f"n_answered must be 0 to {n_prompt}, the tokens of the prompt; got {n_answered}"
        )


def flag(name: str, value: Any) -> bool:
    """The value; RequestError unless it is True or False.  A text such as "no" would be true."""
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be True or False, got {value!r:.100}")
    return value


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_n_top(n_top: Any) -> None:
    """RequestError for a number of most likely tokens that no step gives."""
    try:
        if not isinstance(n_top, bool) and 0 <= operator.index(n_top) <= MAX_LOGPROBS:
            return
    except TypeError:
        pass  # an array has an __index__ as well, which refuses; the error below names the value
    raise RequestError(f"n_top must be a whole number from 0 to {MAX_LOGPROBS}, got {n_top!r:.100}")


def template_variables(template: Any) -> Mapping[str, Any]:
    """What a chat template gets besides the messages; RequestError unless it has names, and none
    that is taken."""
    found = {} if template is None else template
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise RequestError(
            "template must be a mapping of the chat template's variables, such as "
            f'{{"tools": [...]}}, got {template!r:.100}'
        )
    if taken := _TAKEN_VARIABLES & found.keys():
        raise RequestError(
            f"template cannot have a variable called {min(taken)!r}, which is taken; the messages "
            "are an argument of their own"
        )
    return found


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
        raise RequestError(
            f"got {len(found)} SamplingParams for {n_prompts} prompts; give one for each, or one "
            "SamplingParams outside of a list for all"
        )
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
