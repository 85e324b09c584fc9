"""Files that other programs wrote, as bases of mutations: all below the folder that the environment
variable PYROCLAST_TORTURE_FILES names; none without it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torture.gguf_image import Image

VARIABLE = "PYROCLAST_TORTURE_FILES"
_MAX_DATA_BYTES = 1 << 20  # of a GGUF file's tensors; the rest is cut off
_TOKENS = b"tokenizer.ggml.tokens"
_MAX_TOKENS = 100_000  # a tokenizer of 262,144 takes 10 s of CPU time, sound as it is
_MAX_JSON_BYTES = 4 << 20  # larger ones take a second for each case


def gguf_images() -> list[Image]:
    """Of every GGUF file whose vocabulary is not too large."""
    images = [Image.read(path, _MAX_DATA_BYTES) for path in _found("*.gguf")]
    return [i for i in images if len(i.values.get(_TOKENS, ())) <= _MAX_TOKENS]


def json_trees(name: str) -> list[Any]:
    """Of every file of that name that is not too large."""
    small = [path for path in _found(name) if path.stat().st_size <= _MAX_JSON_BYTES]
    return [json.loads(path.read_bytes()) for path in small]


def safetensors_headers() -> list[dict[str, Any]]:
    """Of every safetensors file whose header is not too large."""
    return [header for path in _found("*.safetensors") for header in _header(path)]


def _header(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes <= _MAX_JSON_BYTES:
            yield json.loads(file.read(n_bytes))


def _found(pattern: str) -> list[Path]:
    folder = os.environ.get(VARIABLE)
    return sorted(Path(folder).rglob(pattern)) if folder else []
