"""The special tokens that a Hugging Face folder declares outside tokenizer.json.

tokenizer_config.json and special_tokens_map.json name them by role ("bos_token", "image_token"), in
lists ("additional_special_tokens"), and by id ("added_tokens_decoder").  A token that is only in
the vocabulary of tokenizer.json would be cut into pieces, so each of them is registered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pyroclast.errors import TokenizerError
from pyroclast.text.native_tokenizer import NativeTokenizer
from pyroclast.text.vocab import END_OF_TURN, check_added_tokens, is_end_of_turn

if TYPE_CHECKING:
    from tokenizers import AddedToken

_LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
_ID = re.compile("[0-9]{1,18}")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def named_tokens(declared: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that have a role, such as "pad_token", by that role."""
    groups = [declared[key] for key in _LISTS if isinstance(declared.get(key), Mapping)]
    pairs = [pair for group in (declared, *groups) for pair in group.items()]
    contents = {
        key: _content(value) for key, value in pairs if str(key).endswith("_token") and value
    }
    return {key: content for key, content in contents.items() if content}


def register(backend: NativeTokenizer, declared: Mapping[str, Any], *, can_encode: bool) -> bool:
    """Make the declared tokens of the vocabulary added tokens; -> whether any is new.
    `can_encode`: the tokenizer has no pattern that may take hours."""
    known = backend.added_tokens()
    by_id = list(_by_id(declared))
    missing = [
        (i, token.content) for i, token in by_id if backend.token_to_id(token.content) is None
    ]
    tokens = [token for i, token in by_id if repr(known.get(i)) != repr(token)]
    contents = {token.content for token in (*known.values(), *tokens)}
    names = (*named_tokens(declared).values(), *_listed(declared), *_ends(backend, can_encode))
    tokens += [
        _added(name, {})
        for name in dict.fromkeys(names)
        if name not in contents and backend.token_to_id(name) is not None
    ]
    check_added_tokens(token.content for token in tokens)
    for token in tokens:
        backend.add_tokens([token], special=token.special)
    for i, content in missing:
        if (got := backend.token_to_id(content)) != i:
            raise TokenizerError(
                f"added_tokens_decoder gives {content!r} the id {i}, but tokenizer.json has no "
                f"such token, and its next id is {got}"
            )
    return bool(tokens)


def _ends(backend: NativeTokenizer, can_encode: bool) -> Iterator[str]:
    """Names of tokens that end a turn, and that no text becomes: they are no ordinary words."""
    encode = backend.encode if can_encode else backend.model_ids
    for name in sorted(END_OF_TURN):
        token_id = backend.token_to_id(name)
        if token_id is None or not is_end_of_turn(name, special=False):
            continue
        if token_id not in encode(name):
            yield name


def _content(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _listed(declared: Mapping[str, Any]) -> Iterator[str]:
    for key in _LISTS:
        values = declared.get(key)
        values = values.values() if isinstance(values, Mapping) else values
        for value in values if isinstance(values, Iterable) and not isinstance(values, str) else ():
            if content := _content(value):
                yield content


def _by_id(declared: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    """added_tokens_decoder, in the order of its ids."""
    table = declared.get("added_tokens_decoder") or {}
    if not isinstance(table, Mapping) or not all(map(_ID.fullmatch, table)):
        raise TokenizerError("added_tokens_decoder must be an object from ids to tokens")
    for key in sorted(table, key=int):
        i, value = int(key), table[key]
        content = _content(value)
        if not content:
            raise TokenizerError(f"added_tokens_decoder: token {i} has no content: {value!r:.80}")
        flags = value if isinstance(value, Mapping) else {}
        yield i, _added(content, flags, special=bool(flags.get("special", False)))


def _added(content: str, flags: Mapping[str, Any], special: bool = True) -> AddedToken:
    from tokenizers import AddedToken

    chosen = {name: bool(flags[name]) for name in _FLAGS if name in flags}
    return AddedToken(content, special=special, **({"normalized": not special} | chosen))
