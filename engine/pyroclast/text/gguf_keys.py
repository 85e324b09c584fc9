"""What a GGUF file says of a vocabulary besides its tokens: merges, special ids, templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyroclast.errors import TokenizerError
from pyroclast_kernels.native import strings

KEY = "tokenizer.ggml."


def special_id(
    metadata: Mapping[str, Any], name: str, n_tokens: int, default: int | None
) -> int | None:
    """A special token's id; `default` where the file names none."""
    token_id = metadata.get(KEY + name)
    if token_id is None:
        return default if default is not None and default < n_tokens else None
    if not isinstance(token_id, int) or not 0 <= token_id < n_tokens:
        raise TokenizerError(f"{KEY}{name} is {token_id!r}; this vocabulary has 0..{n_tokens - 1}")
    return token_id


def surrounding(
    metadata: Mapping[str, Any], name: str, token_id: int | None, default: bool
) -> tuple[int, ...]:
    """What goes before or after a text: the token `name`, if the file or the default wants it."""
    wanted = metadata.get(f"{KEY}add_{name}_token")
    if wanted and token_id is None:
        raise TokenizerError(f"{KEY}add_{name}_token is true, but {name}_token_id is missing")
    use = default if wanted is None else bool(wanted)
    return (token_id,) if use and token_id is not None else ()


def templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name; the key of one without a name ends there."""
    key = "tokenizer.chat_template"
    named = {
        name.removeprefix(key + "."): metadata[name]
        for name in metadata  # not items(): each look-up decodes an array again
        if name.startswith(key + ".")
    }
    named["default"] = metadata.get(key)
    return {name: value for name, value in named.items() if isinstance(value, str) and value}


# How GGUF spells the keys of tokens that templates know by name.
NAMED = {"unk": "unknown", "pad": "padding", "sep": "seperator", "cls": "cls", "mask": "mask"}


def named_tokens(
    metadata: Mapping[str, Any], tokens: list[str], bos: int | None, eos: int | None
) -> dict[str, str]:
    """The tokens that templates know by name, such as "pad_token"."""
    ids = {"bos": bos, "eos": eos} | {
        name: special_id(metadata, f"{key}_token_id", len(tokens), None)
        for name, key in NAMED.items()
    }
    return {f"{name}_token": tokens[i] for name, i in ids.items() if i is not None}


def merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of byte-level BPE, in their order."""
    lines = metadata.get(KEY + "merges")
    if not isinstance(lines, list):
        raise TokenizerError("tokenizer.ggml.merges is missing: byte-level BPE needs its merges")
    if (found := strings.split_pairs(lines)) is not None:
        return found
    try:
        # A token may begin with a space, so the first character never separates.
        return [(line[: (i := line.index(" ", 1))], line[i + 1 :]) for line in lines]
    except (AttributeError, ValueError) as error:
        raise TokenizerError(f"tokenizer.ggml.merges must be pairs: {error}") from error
