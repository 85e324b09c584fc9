"""A model's config and weights, wherever they come from: one interface over GGUF files, packed
files, Hugging Face folders and random weights.

Opening reads and checks headers only; weights are read when Tensor.rows() is called.  Every
tensor that the config calls for is present and of the right shape once a Checkpoint exists.
What only one of these kinds needs is imported when one is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyroclast.checkpoint import dummy_shapes
from pyroclast.checkpoint.drafting import with_draft_head, without_drafting
from pyroclast.checkpoint.find import find_model, model_text
from pyroclast.checkpoint.match import Naming, StoredTensor, filled, flattened, match_tensors
from pyroclast.checkpoint.parts import vector_values
from pyroclast.checkpoint.tensor import Tensor, all_converted, computable, conversion_line
from pyroclast.errors import ClosedError, ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.gguf_rope import ROPE_TENSORS
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.files.gguf_parts import GGUFModel, first_part, model_name
from pyroclast.files.packed_file import PackedFile, is_packed

if TYPE_CHECKING:
    from pyroclast.checkpoint.packed import PackedWeights
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
    missing_bytes are what was cut off of them.  packed: a packed file's weights as the kernels
    read them.  After close() nothing more can be read; what was mapped stays.
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
        packed: PackedWeights | None = None,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.config = config
        self.tensors = tensors
        self.path = path
        self.name = name
        self.file_bytes = file_bytes
        self.missing_bytes = missing_bytes
        self.packed = packed
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


def open_checkpoint(
    model: str | Path, *, complete: bool = True, draft_head: bool | None = False
) -> Checkpoint:
    """Open a GGUF file or any of its parts, a packed file, a folder, an installed model by name, or
    "dummy:<shape>@<format>".

    A path may end in "@<format>" to convert every matrix at load: "folder@q8_0".  complete False
    also takes files that were cut short among their weights: the rows of what is missing cannot be
    read, all else can.  draft_head: with the head that predicts further tokens, where there is one
    (None: and it can be read); packed files have none.
    """
    text = model_text(model)
    if text.startswith(dummy_shapes.PREFIX):
        return _open_dummy(text, bool(draft_head))
    path, to_format = find_model(text)
    not_folder = _open_packed if is_packed(path) else _open_gguf
    checkpoint = (_open_folder if path.is_dir() else not_folder)(path, complete, draft_head)
    if to_format is not None:
        _check_convertible(checkpoint, to_format)
        with _opening(path, checkpoint):
            checkpoint.tensors = all_converted(checkpoint.tensors, to_format)
    checkpoint.tensors = {name: computable(t) for name, t in checkpoint.tensors.items()}
    return checkpoint


def open_tokenizer(model: str | Path) -> tuple[Tokenizer, str]:
    """A model's tokenizer and name; the weights are not looked at, and may be cut short."""
    from pyroclast.text.tokenizer import Tokenizer

    text = model_text(model)
    if text.startswith(dummy_shapes.PREFIX):
        with _open_dummy(text, False) as checkpoint:
            return checkpoint.tokenizer(), checkpoint.name
    path, _ = find_model(text)
    if path.is_dir():
        return Tokenizer.from_folder(path), path.resolve().name
    if is_packed(path):
        file = PackedFile(path, entries=False)
        try:
            return Tokenizer.from_gguf_metadata(file.metadata), model_name(path)
        finally:
            file.close()
    return Tokenizer.from_gguf(first_part(path)), model_name(path)


def _check_convertible(checkpoint: Checkpoint, to_format: str) -> None:
    if checkpoint.packed is not None:
        checkpoint.close()
        raise ModelFileError(
            f"{checkpoint.path}: a packed file is loaded as it is, not as {to_format}; add "
            f"--to {to_format} where it is made (pyroclast convert SRC DST.pyro --packed)"
        )


def _open_gguf(path: Path, complete: bool, draft_head: bool | None) -> Checkpoint:
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
            vectors={name: vector_values(stored[name]) for name in ROPE_TENSORS if name in stored},
        )
        if draft_head is not False:
            hyperparameters = with_draft_head(hyperparameters, stored, is_wanted=bool(draft_head))
        config = config_of(hyperparameters)
        family = FAMILIES[config.family]
        stored = flattened(without_drafting(stored, hyperparameters), family)
        tensors = match_tensors(config, Naming.of_gguf(family), stored)

    return Checkpoint(
        hyperparameters=hyperparameters,
        config=config,
        tensors=tensors,
        path=str(path),
        name=model_name(path),
        file_bytes=model.n_bytes,
        make_tokenizer=lambda: _gguf_tokenizer(model.metadata),
        files=model,
        missing_bytes=model.missing_bytes,
    )


def _gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    from pyroclast.text.tokenizer import Tokenizer

    return Tokenizer.from_gguf_metadata(metadata)


def _open_packed(path: Path, complete: bool, _: bool | None) -> Checkpoint:
    from pyroclast.checkpoint.packed import PackedWeights, source_facts

    file = PackedFile(path, complete=complete)
    with _opening(path, file):
        hyperparameters = hyperparameters_from_gguf(file.metadata, **source_facts(file.metadata))
        config = config_of(hyperparameters)
        packed = PackedWeights(file)
        tensors = packed.tensors(config)

    return Checkpoint(
        hyperparameters=hyperparameters,
        config=config,
        tensors=tensors,
        path=str(path),
        name=model_name(path),
        file_bytes=file.file.size,
        make_tokenizer=lambda: _gguf_tokenizer(file.metadata),
        files=file,
        missing_bytes=file.missing_bytes,
        packed=packed,
    )


def _open_folder(path: Path, complete: bool, draft_head: bool | None) -> Checkpoint:
    from pyroclast.checkpoint.folder_tensors import folder_tensors, settle_head
    from pyroclast.families.read_hf import hyperparameters_from_hf
    from pyroclast.files.hf_folder import HFFolder

    folder = HFFolder(path, complete=complete)
    with _opening(path, folder):
        hyperparameters = hyperparameters_from_hf(folder.config, folder.generation_config)
        family = FAMILIES[hyperparameters.family]
        if draft_head is not False:
            names = [name for file in folder.files for name in file.tensors]
            hyperparameters = with_draft_head(hyperparameters, names, is_wanted=bool(draft_head))
        stored = folder_tensors(folder, family, hyperparameters)
        hyperparameters = settle_head(hyperparameters, family, stored)
        config = config_of(hyperparameters)
        naming = Naming.of_folder(family)
        tensors = match_tensors(config, naming, filled(stored, config, naming))

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


def _open_dummy(model: str, draft_head: bool) -> Checkpoint:
    from pyroclast.checkpoint import dummy as shapes

    shape_name, format_name = shapes.parse(model)
    hyperparameters = shapes.hyperparameters_of(shape_name, draft_head=draft_head)
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
