"""Plain text to learn from: read, split into a part to train on and one held out, encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pyroclast.errors import TrainingError
from pyroclast.files.small_file import read_small_text

MAX_TEXT_BYTES = 1 << 30


def read_texts(paths: Sequence[str | Path]) -> list[str]:
    """The text of each file; TrainingError for one that cannot be read or holds no text."""
    if not paths:
        raise TrainingError("no text was given; name at least one file")
    found = []
    for path in map(Path, paths):
        try:
            text = read_small_text(path, MAX_TEXT_BYTES, TrainingError)
        except FileNotFoundError:
            raise TrainingError(f"{path}: no such file") from None
        if not text.strip():
            raise TrainingError(f"{path}: holds no text")
        found.append(text)
    return found


def fingerprint(texts: Sequence[str]) -> str:
    """A hash of the texts: a run resumes only with those that it began with."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]


def split(texts: Sequence[str], held_out: float) -> tuple[list[str], list[str]]:
    """(texts to train on, texts held out): the end of each is held out, from the start of a line
    on where there is one near."""
    train, held = [], []
    for text in texts:
        at = int(len(text) * (1 - held_out))
        line = text.rfind("\n", 0, at) + 1
        at = line if line > at // 2 else at
        train.append(text[:at])
        held.append(text[at:])
    return train, held
