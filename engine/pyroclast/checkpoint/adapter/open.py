"""An adapter file or folder, opened for one base model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroclast.checkpoint.adapter.gguf import gguf_pairs
from pyroclast.checkpoint.adapter.pairs import Floats, Pair
from pyroclast.checkpoint.adapter.peft import open_weights, peft_pairs
from pyroclast.checkpoint.convert.keys import written_family
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.registry import FAMILIES
from pyroclast.files.gguf import GGUFFile
from pyroclast.files.safetensors import SafetensorsFile

Products = dict[str, tuple[Floats, Floats]]


class Adapter:
    """pairs: canonical name -> what is added to that weight.  Shapes and ranks are checked; values
    are when `read` reads them."""

    def __init__(
        self, path: Path, pairs: dict[str, Pair], file: GGUFFile | SafetensorsFile
    ) -> None:
        self.path, self.pairs = path, pairs
        self._file = file

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in self.pairs.values())

    @property
    def targets(self) -> set[str]:
        """The names of its weights without their layers: "wq"."""
        return {name.rpartition(".")[2] for name in self.pairs}

    def read(self) -> Products:
        """Canonical name -> (A, scale * B), float32: W + (scale * B) @ A is the changed weight."""
        with _about(self.path):
            return {name: pair.read() for name, pair in self.pairs.items()}

    def close(self) -> None:
        """Closes the file; harmless when repeated."""
        self._file.close()


def open_adapter(path: str | Path, config: ModelConfig) -> Adapter:
    """Opens a peft folder or a GGUF file for the base model of that config.  ModelFileError, and
    UnsupportedModelError below it, for what is wrong, or for another base."""
    path, family = Path(path), FAMILIES[config.family]
    file = open_weights(path) if path.is_dir() else GGUFFile(path)
    try:
        with _about(path):
            if isinstance(file, SafetensorsFile):
                return Adapter(path, peft_pairs(path, file, family, config), file)
            return Adapter(path, gguf_pairs(file, _gguf_family(family), config), file)
    except BaseException:
        file.close()
        raise


def _gguf_family(family: Family) -> Family:
    """The family whose names a GGUF file has for this one."""
    if family.is_recurrent:
        raise UnsupportedModelError(
            f"adapters in GGUF files are not read for the family {family.name!r}, which has "
            "recurrent layers; give peft's folder"
        )
    return written_family(family)


def fingerprint(name: str, products: Products) -> bytes:
    """16 bytes that differ for another name and for other values."""
    found = hashlib.blake2b(name.encode(), digest_size=16)
    for each, (a, b) in sorted(products.items()):
        found.update(f"\0{each} {a.shape} {b.shape}".encode())
        found.update(a.tobytes())
        found.update(b.tobytes())
    return found.digest()


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Puts the adapter's path in front of what is wrong with it."""
    try:
        yield
    except ModelFileError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
