"""The model that a recipe starts from, in torch and float32, with the files of its tokenizer."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.find import find_model
from pyroclast.checkpoint.open import open_tokenizer
from pyroclast.errors import TrainingError
from pyroclast.files.small_file import TOKENIZER_BYTES, read_small_text
from pyroclast.train.disk import writing_to
from pyroclast.train.export import export
from pyroclast.train.extra import needed
from pyroclast.train.shapes import transformers_quietly

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def open_base(model: str | Path, scratch: Path) -> tuple[Any, dict[str, str]]:
    """(the transformers model, its tokenizer's files by name).  A GGUF file is dequantized into a
    folder under `scratch`, which is gone afterwards."""
    path, to_format = find_model(str(model))
    if to_format is not None:
        raise TrainingError(f"{model}: a model is trained in float32; leave out @{to_format}")
    if path.is_dir():
        return _opened(path)
    with ExitStack() as stack:
        with writing_to(scratch):
            made = tempfile.TemporaryDirectory(prefix=".base.", suffix=".part", dir=scratch)
            folder = Path(stack.enter_context(made))
            export(path, folder)
        return _opened(folder)


def _opened(folder: Path) -> tuple[Any, dict[str, str]]:
    transformers_quietly()
    return loaded("AutoModelForCausalLM", folder), _read(folder)


def loaded(auto_class: str, folder: Path, **options: Any) -> Any:
    """What a class of transformers makes of a folder, in float32; TrainingError where it cannot."""
    torch, transformers = needed("torch"), needed("transformers")
    if auto_class.startswith("AutoModel"):
        options["dtype"] = torch.float32
    try:
        return getattr(transformers, auto_class).from_pretrained(
            folder, local_files_only=True, **options
        )
    except Exception as error:  # a config may make the library raise anything
        if isinstance(error, MemoryError):
            raise
        raise TrainingError(f"{folder}: transformers cannot load it: {error}") from error


def context_of(folder: Path) -> int:
    """The tokens that a folder's model can read; no limit where its config has none."""
    return getattr(loaded("AutoConfig", folder), "max_position_embeddings", None) or sys.maxsize


def tokenizer_files(model: str | Path) -> dict[str, str]:
    """Name -> text of the files that hold a model's tokenizer in a Hugging Face folder."""
    path, _ = find_model(str(model))
    return _read(path) if path.is_dir() else open_tokenizer(path)[0].folder_files()


def _read(folder: Path) -> dict[str, str]:
    return {
        name: read_small_text(folder / name, TOKENIZER_BYTES, TrainingError)
        for name in _TOKENIZER_FILES
        if (folder / name).exists()
    }
