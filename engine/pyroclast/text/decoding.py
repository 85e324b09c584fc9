"""How token ids become bytes: `Decoding`, the steps of tokenizer.json's decoder.

Each token is spelt by itself; what later steps do to the whole text is done to the stream of bytes,
so that one call of `decode` and a stream give the same.  A step that is not known is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyroclast.errors import TokenizerError

SPACE = "▁"  # U+2581 stands for a space in SentencePiece vocabularies
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SUPPORTED = (
    f"ByteLevel, and SentencePiece's (Metaspace, or Replace {SPACE!r} with ByteFallback); then "
    "Fuse, Strip at the start, and Replace of a string"
)
_MAX_PATTERN_CHARS = 64  # a stream holds as many back


@dataclass(frozen=True)
class Decoding:
    """`byte_level`: tokens are spelt in GPT-2's alphabet.  Otherwise `replaced` is replaced in each
    token, and with `byte_fallback` "<0x0A>" is a byte.  `stripped` is removed up to `n_stripped`
    times from the start of a text, and `bare` wherever it is in its first token.
    `replaced_in_text` comes last."""

    byte_level: bool = False
    replaced: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    stripped: bytes = b" "
    n_stripped: int = 0
    bare: str = ""
    replaced_in_text: tuple[tuple[bytes, bytes], ...] = ()

    def spelt(self, text: str) -> bytes:
        """The bytes of a token that is not byte-level."""
        if self.byte_fallback and (byte := _BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(byte[1])
        for old, new in self.replaced:
            text = text.replace(old, new)
        return text.encode()


class DecodingStream:
    """The bytes of tokens, one by one -> the bytes of the text, as far as they are certain."""

    def __init__(self, decoding: Decoding, continuation: bool) -> None:
        self._stripped = decoding.stripped
        self._n_left = 0 if continuation else decoding.n_stripped
        self._bare = bool(decoding.bare) and not continuation
        self._replacing = [_Replacing(old, new) for old, new in decoding.replaced_in_text]

    @property
    def is_plain(self) -> bool:
        """Whether bytes pass as they are, from now on."""
        return not (self._n_left or self._bare or self._replacing)

    def step(self, data: bytes, bare: bytes) -> bytes:
        """What this token's bytes complete; `bare` are its bytes as the first token."""
        if self._bare and data:
            self._bare = False
            data = bare
        while self._n_left and data:
            rest = data.removeprefix(self._stripped)
            self._n_left = self._n_left - 1 if len(rest) < len(data) else 0
            data = rest
        for replacing in self._replacing:
            data = replacing.step(data)
        return data

    def flush(self) -> bytes:
        """What is held back at the end."""
        data = b""
        for replacing in self._replacing:
            data = replacing.step(data) + replacing.flush()
        return data


class _Replacing:
    """bytes.replace of a stream: holds back what may become the pattern."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old, self._new = old, new
        self._held = b""

    def step(self, data: bytes) -> bytes:
        *whole, rest = (self._held + data).split(self._old)
        size = next(
            n for n in range(min(len(rest), len(self._old) - 1), -1, -1)
            if self._old.startswith(rest[len(rest) - n :])
        )  # fmt: skip
        self._held = rest[len(rest) - size :]
        return self._new.join([*whole, rest[: len(rest) - size]])

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return held


def decoding_of(state: Any, what: str) -> Decoding:
    """tokenizer.json's decoder; `what` begins the message of an error."""
    steps = list(_flat(state))
    kinds = [str(step.get("type")) for step in steps]
    found: dict[str, Any] = {"replaced": (), "replaced_in_text": ()}
    fused = False
    for kind, step in zip(kinds, steps, strict=True):
        if kind == "Fuse":
            fused = True
        elif kind == "ByteLevel" and kinds.index(kind) == 0:
            found["byte_level"] = fused = True
        elif kind == "ByteFallback" and not fused:
            found["byte_fallback"] = True
        elif kind == "Metaspace" and not fused:
            found["replaced"] += ((step.get("replacement", SPACE), " "),)
            if step.get("prepend_scheme", "always") != "never":
                found["bare"] = step.get("replacement", SPACE)
            found["byte_fallback"] = True  # else bytes would be spelt out as "<0x0A>"
        elif kind == "Replace":
            old, new = _replacement(step, what)
            if fused:
                found["replaced_in_text"] += ((old.encode(), new.encode()),)
            else:
                found["replaced"] += ((old, new),)
        elif kind == "Strip" and fused and _strips_start(step, found):
            found |= {"stripped": step["content"].encode(), "n_stripped": step.get("start", 0)}
        else:
            raise _unsupported(kinds, what, kind)
    known = found.get("byte_level") or found.get("byte_fallback") or "Metaspace" in kinds
    if not known and not any(new == " " for _, new in found["replaced"]):
        raise _unsupported(kinds, what, None)
    return Decoding(**found)


def _flat(state: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(state, Mapping):
        if state.get("type") == "Sequence":
            for step in state.get("decoders", []):
                yield from _flat(step)
        else:
            yield state


def _replacement(step: Mapping[str, Any], what: str) -> tuple[str, str]:
    old, new = step.get("pattern", {}).get("String"), step.get("content", "")
    if not old or len(old) > _MAX_PATTERN_CHARS or len(new) > _MAX_PATTERN_CHARS:
        raise TokenizerError(
            f"{what}: the decoder's Replace needs a string of 1..{_MAX_PATTERN_CHARS} characters "
            f"as its pattern, got {step.get('pattern')!r:.80}"
        )
    return old, new


def _strips_start(step: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a step takes from the start of the text only, before the text is replaced in."""
    return bool(step.get("content")) and not step.get("stop") and not found["replaced_in_text"]


def _unsupported(kinds: list[str], what: str, kind: str | None) -> TokenizerError:
    at = f"; at fault: {kind}" if kind else ""
    return TokenizerError(
        f"{what}: decoder {kinds or None} is not supported; supported: {_SUPPORTED}{at}"
    )
