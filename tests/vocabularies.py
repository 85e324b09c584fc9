"""Small vocabularies as GGUF metadata, and the real ones that lie beside the repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.text.vocab import byte_level_alphabet

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
REAL_VOCABULARIES = sorted(
    (Path(__file__).parents[2] / "shared" / "data" / "tokenizers").glob("*.gguf")
)


def byte_level(
    words: Sequence[str] = (),
    merges: Sequence[str] = (),
    others: Sequence[tuple[str, int]] = (),
    **keys: Any,
) -> dict[str, Any]:
    """The 256 bytes, then words, then (text, type) pairs such as control tokens."""
    tokens = [*byte_level_alphabet(), *words]
    types = [NORMAL] * len(tokens) + [kind for _, kind in others]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [text for text, _ in others],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": list(merges),
        **_full_names(keys),
    }


def sentencepiece(
    pieces: Sequence[str],
    others: Sequence[tuple[str, int]] = (),
    byte_tokens: bool = True,
    **keys: Any,
) -> dict[str, Any]:
    """<unk> <s> </s>, the byte tokens, pieces by falling score, then (text, type) pairs."""
    special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    special += [(f"<0x{byte:02X}>", BYTE) for byte in range(256 if byte_tokens else 0)]
    tokens = [*special, *((piece, NORMAL) for piece in pieces), *others]
    scores = [0.0] * len(special) + [-float(i) for i in range(len(pieces))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in tokens],
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
        "tokenizer.ggml.scores": scores + [-1000.0] * len(others),
        **_full_names(keys),
    }


def _full_names(keys: dict[str, Any]) -> dict[str, Any]:
    outside = {"chat_template": "tokenizer.chat_template", "name": "general.name"}
    return {outside.get(key, f"tokenizer.ggml.{key}"): value for key, value in keys.items()}
