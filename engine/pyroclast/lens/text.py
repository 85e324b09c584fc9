"""Words in numbers: the tokens of a text or a conversation, and how each is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroclast.errors import ContextOverflowError, RequestError

if TYPE_CHECKING:
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

MAX_TOKENS = 16_384
# Text, token ids, or the messages of a conversation.
Context = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token.  text: its bytes as UTF-8, U+FFFD where they are none.  special: a control token.
    template: the chat template wrote it, and not a message."""

    id: int
    text: str
    bytes: bytes
    special: bool
    template: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """A context as the model reads it: a piece for each of token_ids."""

    token_ids: tuple[int, ...]
    pieces: tuple[Piece, ...]


def tokens(llm: LLM, context: Context) -> Tokens:
    """The tokens of a context, at most MAX_TOKENS; of messages also which ones the chat template
    added."""
    tokenizer = llm.tokenizer
    ids = token_ids_of(llm, context)
    if len(ids) > MAX_TOKENS:
        raise ContextOverflowError(
            f"at most {MAX_TOKENS} tokens can be shown, got {len(ids)}; shorten the text"
        )
    added = [False] * len(ids)
    if is_conversation(context):
        text, written = tokenizer.render_written(context)  # type: ignore[arg-type]
        added = _written_by_template(tokenizer, ids, text, written)
    found = (_piece(tokenizer, i, flag) for i, flag in zip(ids, added, strict=True))
    return Tokens(tuple(ids), tuple(found))


def pieces(llm: LLM, token_ids: Iterable[int]) -> tuple[Piece, ...]:
    """How each token is written, by itself."""
    ids = check_ids(llm, list(token_ids))
    return tuple(_piece(llm.tokenizer, token_id) for token_id in ids)


def token_ids_of(llm: LLM, context: Context) -> list[int]:
    """The ids of a context.  Text gets the model's special tokens, as in `LLM.generate`."""
    if isinstance(context, str):
        return llm.tokenizer.encode(context)
    if is_conversation(context):
        return llm.tokenizer.encode_chat(context)  # type: ignore[arg-type]
    return check_ids(llm, list(context))  # type: ignore[arg-type]


def some_ids_of(llm: LLM, context: Context) -> list[int]:
    """The same; RequestError where there is no token, after which nothing follows."""
    ids = token_ids_of(llm, context)
    if not ids:
        raise RequestError("the context has no tokens; give it at least one")
    return ids


def is_conversation(context: Context) -> bool:
    """Whether it is messages; an empty list is not."""
    return not isinstance(context, str) and len(context) > 0 and isinstance(context[0], Mapping)


def prompt_length(given: int | None, n_tokens: int) -> int:
    """How many of a context's tokens are the prompt; None: all.  RequestError for more."""
    if given is not None and not 0 <= given <= n_tokens:
        raise RequestError(f"n_prompt must be 0 to {n_tokens}, the tokens there are; got {given}")
    return n_tokens if given is None else given


def check_ids(llm: LLM, ids: list[int]) -> list[int]:
    """RequestError for a token id that the model does not have."""
    for token_id in ids:
        if not 0 <= token_id < llm.vocab_size:
            raise RequestError(f"token ids must be in 0..{llm.vocab_size - 1}, got {token_id}")
    return ids


def text_of(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's own text; bytes that are not UTF-8 by themselves become U+FFFD.  Rows of logits
    that only pad the output matrix have none."""
    return _bytes_of(tokenizer, token_id).decode("utf-8", "replace")


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    return b"" if token_id >= tokenizer.vocab_size else tokenizer.token_bytes(token_id)


def _piece(tokenizer: Tokenizer, token_id: int, template: bool = False) -> Piece:
    data = _bytes_of(tokenizer, token_id)
    special = token_id in tokenizer.special_token_ids
    return Piece(token_id, data.decode("utf-8", "replace"), data, special, template)


def _written_by_template(
    tokenizer: Tokenizer, ids: Sequence[int], text: str, written: bytes
) -> list[bool]:
    """For each token whether the template wrote all of it.  The tokens' bytes are laid along the
    text; one that does not fit there (a BOS before it) counts if it is a control token."""
    data = text.encode("utf-8", "surrogatepass")
    flags = bytes(
        flag
        for char, flag in zip(text, written, strict=True)
        for _ in char.encode("utf-8", "surrogatepass")
    )
    special, found, at = tokenizer.special_token_ids, [], 0
    for token_id in ids:
        own = _bytes_of(tokenizer, token_id)
        # A SentencePiece vocabulary puts a space before the first word.
        fits = next((b for b in (own, own.lstrip(b" ")) if b and data.startswith(b, at)), b"")
        found.append(all(flags[at : at + len(fits)]) if fits else token_id in special)
        at += len(fits)
    return found
