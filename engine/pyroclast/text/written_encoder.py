"""Encodes a text in which control tokens count at known places only, and all else is plain text.

What a message spells is text.  The model of a vocabulary can join characters to a control token
all the same (a merge, a whole word, a piece of a Unigram model), so what it returns is checked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyroclast.errors import TokenizerError
from pyroclast.text.control_names import ControlNames
from pyroclast.text.native_tokenizer import CUT, CUT_ID, CUT_WITHIN
from pyroclast.text.vocab import Vocabulary

if TYPE_CHECKING:
    from tokenizers import AddedToken

# Files also declare control tokens as "user-defined" or not special.  These have the look of one.
_LOOK = re.compile(
    r"<\|.+>|<.+\|>|<\uff5c.+\uff5c>|</?\w+_\w+>|</?think(?:ing)?>|\[/?[A-Z][A-Z0-9_]*\]", re.DOTALL
)
# And these have it if the chat template writes them; others are words, digits and white space.
_LOOK_IN_TEMPLATE = re.compile(r"[^\w\s▁](?=.*[^\W\d_]).{2,}", re.DOTALL)
# What a token with `lstrip` or `rstrip` takes to itself: Unicode's White_Space.
_WHITE_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c < " ")


def control_tokens(vocabulary: Vocabulary) -> dict[int, AddedToken]:
    """The added tokens that no message may spell, whatever type the file gives them."""
    templates = vocabulary.chat_templates.values()
    return {
        token_id: token
        for token_id, token in vocabulary.backend.added_tokens().items()
        if token.special
        or token_id in vocabulary.special_ids
        or token_id in vocabulary.eos_token_ids
        or _LOOK.fullmatch(token.content)
        or (
            _LOOK_IN_TEMPLATE.fullmatch(token.content)
            and any(token.content in t for t in templates)
        )
    }


class WrittenEncoder:
    """One vocabulary's encoder of plain text.  Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        control = control_tokens(vocabulary)
        self._control = {token.content: (i, token) for i, token in control.items()}
        self._names = ControlNames(self._control)
        self._backend = vocabulary.backend.without_control_tokens(self._control)
        self._lossy = vocabulary.lossy_bytes
        # A character that the vocabulary lacks becomes the unknown token, so that one may come.
        unknown = vocabulary.backend.unknown_token()
        self._guarded = frozenset(i for i, token in control.items() if token.content != unknown)

    @property
    def control_names(self) -> list[str]:
        """What the control tokens are called."""
        return list(self._control)

    def encode(self, text: str, written: bytes | None = None) -> list[int]:
        """text -> token ids.  A control token's name counts where `written` is 1 for each of its
        characters; without `written` none does."""
        pieces: list[str] = []
        control_ids, end = [], 0
        for start, name in self._names.found(text, written or b""):
            token_id, token = self._control[name]
            stop = start + len(name)
            if start < end or (token.single_word and _in_word(text, start, stop)):
                continue
            piece = text[end:start]
            pieces.append(piece.rstrip(_WHITE_SPACE) if token.lstrip else piece)
            pieces.append(CUT if token.special else CUT_WITHIN)
            control_ids.append(token_id)
            end = stop
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(_WHITE_SPACE))
        pieces.append(text[end:])
        return self._encode("".join(pieces), control_ids)

    def _encode(self, text: str, control_ids: list[int]) -> list[int]:
        """The ids of a text, with the control tokens in the places of the cuts."""
        spelt = text.replace(CUT, "").replace(CUT_WITHIN, "") if self._lossy else ""
        if lost := self._lossy.intersection(spelt.encode()):
            raise TokenizerError(f"this vocabulary has no token for the byte 0x{min(lost):02x}")
        ids = self._backend.encode(text)
        if ids.count(CUT_ID) != len(control_ids):
            raise TokenizerError("the text spells the mark that stands for control tokens")
        if not self._guarded.isdisjoint(ids):
            ids = [part for token_id in ids for part in self._parts(token_id)]
        control = iter(control_ids)
        return [next(control) if token_id == CUT_ID else token_id for token_id in ids]

    def _parts(self, token_id: int) -> list[int]:
        """The token, or if it is a control token, the tokens of its characters."""
        if token_id not in self._guarded:
            return [token_id]
        name = self._backend.id_to_token(token_id) or ""
        parts = [part for char in name for part in self._backend.model_ids(char)]
        if not parts or not self._guarded.isdisjoint(parts):
            raise TokenizerError(
                f"the text spells the control token {name!r}, which this vocabulary cannot write "
                "in other tokens"
            )
        return parts


def _in_word(text: str, start: int, stop: int) -> bool:
    around = text[start - 1 : start] + text[stop : stop + 1]
    return any(char.isalnum() or char == "_" for char in around)
