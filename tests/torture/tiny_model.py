"""A tiny real network, written once a process, and its answers."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import tiny
from pyroclast import LLM


@functools.cache
def tiny_path() -> Path:
    """Its GGUF file, in the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    config = tiny.CONFIGS["llama"]
    return tiny.write_gguf(folder / "tiny.gguf", config, tiny.random_weights(config), "Q8_0")


def tiny_llm(**options: Any) -> LLM:
    """It loaded, on two threads."""
    return LLM(tiny_path(), **{"threads": 2, **options})
