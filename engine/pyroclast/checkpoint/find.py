"""From what a user calls a model to its file or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.installed import HUB, installed_path
from pyroclast.errors import ModelFileError, reason_of
from pyroclast.files.gguf_parts import gguf_in_folder
from pyroclast_kernels.weights import formats


def model_text(model: Any) -> str:
    """What a caller gave as a model, as text; ModelFileError if it can name none.  An empty name
    would be the current folder."""
    text = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(text, str) and text.strip():
        return text
    raise ModelFileError(
        f"a model is a file, a folder, the name of an installed model or {HUB}ORG/REPO, as text or "
        f"a path object; got {model!r:.100}"
    )


def find_model(text: str) -> tuple[Path, str | None]:
    """The file or folder that a model's name stands for, and the format after its "@"."""
    path, to_format = Path(text), None
    if not _exists(path) and "@" in text:
        base, _, to_format = text.rpartition("@")
        path = Path(base)
        if to_format not in formats.quantizable_formats():
            raise ModelFileError(
                f"cannot convert to {to_format!r} in {text!r}; supported: "
                + ", ".join(formats.quantizable_formats())
            )
    if not _exists(path):
        name = text if to_format is None else base
        path = _downloaded(name) if name.startswith(HUB) else installed_path(str(path))
    return (path.is_dir() and gguf_in_folder(path)) or path, to_format


def _downloaded(name: str) -> Path:
    from pyroclast.checkpoint import hub  # late: few models are named like that

    return hub.downloaded(name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # too long a name, a null byte, no permission
        raise ModelFileError(f"{str(path)!r}: cannot be read: {reason_of(error)}") from error
