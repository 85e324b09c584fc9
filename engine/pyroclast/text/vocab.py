"""`Vocabulary`: what every file format of a vocabulary becomes, and what `Tokenizer` runs.

gguf_vocab.py and hf_vocab.py make them.  Nothing is cached on disk: building the demo model's
49,152-token vocabulary takes about as long as reading it back from JSON (docs/decisions/0007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroclast.errors import TokenizerError
from pyroclast.text.decoding import Decoding

if TYPE_CHECKING:
    from pyroclast.text.native_tokenizer import NativeTokenizer

# Control tokens that end a turn, whatever else the file names: an instruct model stops at its
# end-of-turn token, while eos_token_id often still names the base model's end of text.
_END_OF_TURN = """<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|endoftext|> <|end_of_text|>
    <|eom_id|> <end_of_turn> <turn|> <end_of_utterance> <EOT> _<EOT> [EOT] [EOS] <eos> </s>
    <｜end▁of▁sentence｜>"""
END_OF_TURN = frozenset(_END_OF_TURN.split())
# Also a piece of HTML: Gemma has it as a user-defined token, Qwen2 as an ordinary word.
_ALSO_TEXT = frozenset(["</s>"])

# The longest control tokens in use have some 60 characters; Gemma's 6,242 have 70,000 in all.
# A message is searched for each of them.
_MAX_ADDED_CHARS = 1024
_MAX_ADDED_CHARS_IN_ALL = 1 << 20


def padded_size(value: object) -> int:
    """A model's vocab_size, which counts rows that only pad its matrices; 0 if it is no size."""
    return value if type(value) is int and value < 1 << 31 else 0


def is_end_of_turn(name: str, special: bool) -> bool:
    """Whether a token of this name ends an answer.  Of what files declare special there is less
    doubt than of a user-defined token or a word."""
    return name in END_OF_TURN and (special or name not in _ALSO_TEXT)


def end_ids(tokens: Iterable[tuple[int, str, bool]]) -> set[int]:
    """Which tokens end an answer by their name, of (id, name, special)."""
    named = {name: i for i, name, special in tokens if is_end_of_turn(name, special)}
    if "<|return|>" in named and "<|call|>" in named:
        named.pop("<|end|>", None)  # in gpt-oss it ends a message, not the turn
    return set(named.values())


def check_added_tokens(tokens: Iterable[str]) -> None:
    """Refuse control and user-defined tokens that make every text slow to search."""
    in_all = 0
    for token in tokens:
        in_all += len(token)
        if len(token) > _MAX_ADDED_CHARS:
            raise TokenizerError(
                f"a special token of {len(token)} characters ({token[:20]!r}...); "
                f"at most {_MAX_ADDED_CHARS}"
            )
    if in_all > _MAX_ADDED_CHARS_IN_ALL:
        raise TokenizerError(
            f"the special tokens have {in_all} characters; at most {_MAX_ADDED_CHARS_IN_ALL}"
        )


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary ready to use: text to ids through `backend`, ids to bytes through the rest.

    `raw_ids` are spelt literally (control, user-defined tokens); `decoding` is the spelling of the
    others.  `special_ids` are left out of decoded text on request.
    `prefix_ids` and `suffix_ids` are what add_special_tokens adds.  `lossy_bytes` have no token.
    `named_tokens` are what a template knows by name, such as "bos_token".
    `chat_templates` has the one named "default", if any, and others such as "tool_use".
    """

    backend: NativeTokenizer
    decoding: Decoding
    size: int
    token_text: Callable[[int], str | None]
    raw_ids: frozenset[int]
    special_ids: frozenset[int]
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    chat_templates: Mapping[str, str]
    lossy_bytes: frozenset[int]
    named_tokens: Mapping[str, str]


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes as printable characters: character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)).difference(printable))
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}
