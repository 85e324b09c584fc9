"""Reading the small files beside a model's weights: configurations, indexes, templates.

They are hostile input.  A FIFO or a device would block or never end, so only regular files are
read; each kind of file has a size that no real one reaches.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from pyroclast.errors import ModelFileError, PyroclastError, reason_of

CONFIG_BYTES = 16 << 20  # the largest tokenizer_config.json in use has some 1 MB
INDEX_BYTES = 32 << 20  # 300,000 tensors; the largest in use has some 150,000
TEMPLATE_BYTES = 1 << 20
TOKENIZER_BYTES = 256 << 20  # Gemma's tokenizer.json has 33 MB

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # both halves of a character, and a half alone


def read_small_file(
    path: Path, max_bytes: int, error: type[PyroclastError] = ModelFileError
) -> bytes:
    """The bytes of a regular file of at most max_bytes; anything else raises `error`.  A file that
    does not exist is a FileNotFoundError, for the caller to judge."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise error(f"{path}: not a regular file")
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as reason:  # ValueError: a NUL in the path
        raise error(f"{path}: cannot be read: {reason_of(reason)}") from reason
    if len(content) > max_bytes:
        raise error(
            f"{path}: larger than {max_bytes} bytes, which is all that such a file may have"
        )
    return content


def read_small_text(
    path: Path, max_bytes: int, error: type[PyroclastError] = ModelFileError
) -> str:
    """As `read_small_file`, for UTF-8."""
    try:
        return read_small_file(path, max_bytes, error).decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: cannot be read: {reason}") from reason


def read_small_json(
    path: Path, max_bytes: int, error: type[PyroclastError] = ModelFileError
) -> dict[str, Any]:
    """The JSON object in a small file."""
    try:
        value = parse_json(read_small_text(path, max_bytes, error))
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not valid JSON: {reason}") from reason
    if not isinstance(value, dict):
        raise error(f"{path}: must be a JSON object, got {type(value).__name__}")
    return value


def parse_json(text: str, **options: Any) -> Any:
    """json.loads(text, **options), but an escape for half of a character is a ValueError as well:
    no tokenizer takes such a text, and nobody can print it."""
    value = json.loads(text, **options)
    if _HALF.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value
