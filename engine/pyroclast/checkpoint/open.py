"""A model's config and weights, wherever they come from: one interface over GGUF files, Hugging
Face folders and random weights.

Opening reads and checks headers only; weights are read when Tensor.rows() is called.  Every
tensor that the config calls for is present and of the right shape once a Checkpoint exists.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyroclast.checkpoint import dummy as shapes
from pyroclast.checkpoint.folder_tensors import folder_tensors, settle_head
from pyroclast.checkpoint.installed import installed_path
from pyroclast.checkpoint.match import Naming, StoredTensor, match_tensors
from pyroclast.checkpoint.tensor import Tensor, computable, conversion_line, converted
from pyroclast.errors import ClosedError, ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.gguf_rope import ROPE_TENSORS
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.files.gguf_parts import GGUFModel, first_part, gguf_in_folder, model_name
from pyroclast.files.hf_folder import HFFolder
from pyroclast_kernels.weights import formats

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "open_tokenizer"]


class Closable(Protocol):
    """Anything with files behind it."""

    def close(self) -> None:
        """Let go of them."""
        ...


class Checkpoint:
    """config, and tensors by canonical name; use as a context manager, or close().

    hyperparameters is what the file itself says, of which its family made the config.  file_bytes
    is the size of all files that hold weights (of the weights themselves for a dummy);
    missing_bytes are what was cut off of them.  After close() nothing more can be read.
    """

    def __init__(
        self,
        *,
        hyperparameters: Hyperparameters,
        config: ModelConfig,
        tensors: dict[str, Tensor],
        path: str,
        name: str,
        file_bytes: int,
        make_tokenizer: Callable[[], Tokenizer],
        files: Closable | None = None,
        missing_bytes: int = 0,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.config = config
        self.tensors = tensors
        self.path = path
        self.name = name
        self.file_bytes = file_bytes
        self.missing_bytes = missing_bytes
        self._make_tokenizer = make_tokenizer
        self._files = files
        self._closed = False

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that comes with the weights; each call makes another."""
        if self._closed:
            raise ClosedError(f"{self.path}: used after close()")
        return self._make_tokenizer()

    def conversion_line(self) -> str:
        """Which tensors have a type that no kernel computes, and what loading makes of them."""
        return conversion_line(self.tensors.values())

    def close(self) -> None:
        """Close the files; harmless when repeated."""
        self._closed = True
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(model: str | Path, *, complete: bool = True) -> Checkpoint:
    """Open a GGUF file or any of its parts, a folder, "dummy:<shape>@<format>", or an installed
    model by name.

    A path may end in "@<format>" to convert every matrix at load: "folder@q8_0".  complete False
    also takes files that were cut short among their weights: the rows of what is missing cannot be
    read, all else can.
    """
    if str(model).startswith(shapes.PREFIX):
        return _open_dummy(str(model))
    path, to_format = find_model(str(model))
    checkpoint = (_open_folder if path.is_dir() else _open_gguf)(path, complete)
    if to_format is not None:
        with _opening(path, checkpoint):
            checkpoint.tensors = _convert_all(checkpoint.tensors, to_format)
    checkpoint.tensors = {name: computable(t) for name, t in checkpoint.tensors.items()}
    return checkpoint


def open_tokenizer(model: str | Path) -> tuple[Tokenizer, str]:
    """A model's tokenizer and name; the weights are not looked at, and may be cut short."""
    from pyroclast.text.tokenizer import Tokenizer

    if str(model).startswith(shapes.PREFIX):
        with _open_dummy(str(model)) as checkpoint:
            return checkpoint.tokenizer(), checkpoint.name
    path, _ = find_model(str(model))
    if path.is_dir():
        return Tokenizer.from_folder(path), path.resolve().name
    return Tokenizer.from_gguf(first_part(path)), model_name(path)


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
        path = installed_path(str(path))
    return (path.is_dir() and gguf_in_folder(path)) or path, to_format


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # too long a name, a null byte, no permission
        raise ModelFileError(f"{str(path)!r}: cannot be read: {error}") from error


def _convert_all(tensors: dict[str, Tensor], to_format: str) -> dict[str, Tensor]:
    block_columns = formats.FORMATS[to_format].block_columns
    # Learned positions keep their format: they are few, and llama.cpp keeps them too.
    changed = {name: t for name, t in tensors.items() if name != "position_embd"}
    for tensor in changed.values():
        if len(tensor.shape) == 2 and tensor.shape[-1] % block_columns:
            raise ModelFileError(
                f"tensor {tensor.source_name!r} has {tensor.shape[-1]} columns; "
                f"{to_format} needs a multiple of {block_columns} (f16 and bf16 take any number)"
            )
    return tensors | {name: converted(tensor, to_format) for name, tensor in changed.items()}


def _open_gguf(path: Path, complete: bool) -> Checkpoint:
    model = GGUFModel(path, complete=complete)
    with _opening(path, model):
        stored = {
            info.name: StoredTensor(
                info.name, info.shape, info.format.upper(), info.format, file.file, info.offset
            )
            for file, info in model.tensors
        }
        hyperparameters = hyperparameters_from_gguf(
            model.metadata,
            tensors=stored.keys(),
            vectors={name: _vector(stored[name]) for name in ROPE_TENSORS if name in stored},
        )
        config = config_of(hyperparameters)
        family = FAMILIES[config.family]
        tensors = match_tensors(config, Naming.of_gguf(family), stored)

    def make_tokenizer() -> Tokenizer:
        from pyroclast.text.tokenizer import Tokenizer

        return Tokenizer.from_gguf_metadata(model.metadata)

    return Checkpoint(
        hyperparameters=hyperparameters,
        config=config,
        tensors=tensors,
        path=str(path),
        name=model_name(path),
        file_bytes=model.n_bytes,
        make_tokenizer=make_tokenizer,
        files=model,
        missing_bytes=model.missing_bytes,
    )


def _open_folder(path: Path, complete: bool) -> Checkpoint:
    folder = HFFolder(path, complete=complete)
    with _opening(path, folder):
        hyperparameters = hyperparameters_from_hf(folder.config, folder.generation_config)
        family = FAMILIES[hyperparameters.family]
        stored = folder_tensors(folder, family)
        hyperparameters = settle_head(hyperparameters, family, stored)
        config = config_of(hyperparameters)
        tensors = match_tensors(config, Naming.of_folder(family), stored)

    def make_tokenizer() -> Tokenizer:
        from pyroclast.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(path)

    return Checkpoint(
        hyperparameters=hyperparameters,
        config=config,
        tensors=tensors,
        path=str(path),
        name=path.resolve().name,
        file_bytes=sum(file.file.size for file in folder.files),
        make_tokenizer=make_tokenizer,
        files=folder,
        missing_bytes=folder.missing_bytes,
    )


def _open_dummy(model: str) -> Checkpoint:
    shape_name, format_name = shapes.parse(model)
    hyperparameters = shapes.SHAPES[shape_name]
    config = config_of(hyperparameters)
    tensors = shapes.dummy_tensors(config, format_name)
    return Checkpoint(
        hyperparameters=hyperparameters,
        config=config,
        tensors=tensors,
        path=model,
        name=f"{shape_name}@{format_name}",
        file_bytes=sum(tensor.n_bytes for tensor in tensors.values()),
        make_tokenizer=lambda: shapes.dummy_tokenizer(config),
    )


@contextmanager
def _opening(path: Path, files: Closable) -> Iterator[None]:
    """Close the files if what they hold is wrong, and put their path in front of the error."""
    try:
        yield
    except ModelFileError as error:
        files.close()
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except BaseException:
        files.close()
        raise


def _vector(tensor: StoredTensor) -> tuple[float, ...]:
    """The values of a short vector that the config needs."""
    if tensor.format != "f32" or len(tensor.shape) != 1 or tensor.shape[0] > 1 << 16:
        raise ModelFileError(
            f"tensor {tensor.name!r} must be a vector in F32, got {tensor.type_name} of shape "
            f"{tensor.shape}"
        )
    if tensor.offset + 4 * tensor.shape[0] > tensor.file.size:
        raise ModelFileError(
            f"tensor {tensor.name!r}, which the config needs, was cut off: the file ends at "
            f"{tensor.file.size}"
        )
    raw = tensor.file.read(tensor.offset, 4 * tensor.shape[0], f"tensor {tensor.name!r}")
    return struct.unpack(f"<{tensor.shape[0]}f", raw)
