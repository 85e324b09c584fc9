"""The conversion itself: one tensor after the other, in parts that several threads encode."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyroclast.checkpoint.convert.folder import folder_source
from pyroclast.checkpoint.convert.merge import merge_adapter
from pyroclast.checkpoint.convert.mixes import (
    FILE_TYPES,
    Place,
    check_target,
    format_of,
    is_matrix,
    n_bytes_of,
)
from pyroclast.checkpoint.convert.source import Bytes, Source, SourceTensor, gguf_source
from pyroclast.checkpoint.dummy import PREFIX
from pyroclast.checkpoint.find import find_model
from pyroclast.errors import ModelFileError
from pyroclast.files.gguf_writer import TensorEntry, Value, header, replacing, write_tensor
from pyroclast.files.packed_file import is_packed
from pyroclast_kernels import features
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.encode import encode

_PART_VALUES = 1 << 20  # 4 MiB as float32
_UNQUANTIZED = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Converted:
    """What was written: bytes, and tensors and bytes of each format.  notes: sentences on what
    differs from what one may expect."""

    path: str
    n_bytes: int
    formats: dict[str, dict[str, int]]
    notes: list[str]


def convert(
    source: str,
    target: str,
    to: str,
    *,
    adapter: str | None = None,
    threads: int | None = None,
    bar: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Converted:
    """Writes the model `source` as the GGUF file `target`, in the format or mix `to`, with the
    adapter, a folder or a file, merged into its weights.  bar gets the number of tensors,
    and gives a function that gets how many are done."""
    check_target(to)
    with closing(open_source(checked_path(source, Path(target)), adapter)) as opened:
        new, n_threads = NewFile(opened, to), threads or features.n_cpus()
        with replacing(Path(target), new.n_bytes) as file:
            new.write(file, n_threads, bar(len(new.formats)))
            n_bytes = file.tell()
        return Converted(target, n_bytes, new.counts(), new.notes())


def checked_path(source: str, target: Path) -> Path:
    """The file or folder to convert; ModelFileError for what cannot be converted."""
    if source.startswith(PREFIX):
        raise ModelFileError(f"{source!r}: random weights are not converted; name a file or folder")
    path, to_format = find_model(source)
    if to_format is not None:
        raise ModelFileError(f"{source!r}: leave out @{to_format}; --to names the format")
    if target.exists() and os.path.samefile(path, target):
        raise ModelFileError(f"{target}: is what is to be converted; name another file")
    if is_packed(path):
        raise ModelFileError(f"{path}: is a packed file; convert what it was made from")
    return path


def open_source(path: Path, adapter: str | None = None) -> Source:
    """What there is to convert, with an adapter merged into its weights."""
    opened = folder_source(path) if path.is_dir() else gguf_source(path)
    if adapter is None:
        return opened
    try:
        return merge_adapter(opened, path, adapter)
    except BaseException:
        opened.files.close()
        raise


def _format(tensor: SourceTensor, place: Place, to: str | None) -> str:
    if is_matrix(tensor.name, tensor.shape):
        return tensor.format if to is None else format_of(to, place, tensor.shape[-1])
    # A vector of a folder in bf16; a file's are what its writer chose.
    return "f32" if tensor.format in _UNQUANTIZED else tensor.format


class NewFile:
    """A GGUF file that is about to be written: the source's tensors in the format or mix `to`, or
    its matrices in the formats that they have."""

    def __init__(self, source: Source, to: str | None) -> None:
        self.source = source
        pairs = zip(source.tensors, source.places(), strict=True)
        self.formats = [_format(tensor, place, to) for tensor, place in pairs]
        self.entries = [
            TensorEntry(
                tensor.name,
                tensor.shape,
                formats.FORMATS[format].ggml_type or 0,
                n_bytes_of(tensor.shape, format),
            )
            for tensor, format in zip(source.tensors, self.formats, strict=True)
        ]
        numbers = {"general.quantization_version": 2}
        if to is not None:
            numbers["general.file_type"] = FILE_TYPES[to]
        more = {key: Value("u32", number).to_bytes() for key, number in numbers.items()}
        self.header = header(source.metadata | more, self.entries)

    @property
    def n_bytes(self) -> int:
        """About how many bytes the file will have."""
        return len(self.header) + sum(entry.n_bytes for entry in self.entries)

    def write(self, file: BinaryIO, n_threads: int, on_tensor: Callable[[int], None]) -> None:
        """Writes all of it; on_tensor gets how many tensors are done."""
        file.write(self.header)
        with ThreadPoolExecutor(n_threads) as pool:
            for i, entry in enumerate(self.entries):
                tensor = self.source.tensors[i]
                write_tensor(file, entry, _parts(tensor, self.formats[i], pool))
                on_tensor(i + 1)

    def counts(self) -> dict[str, dict[str, int]]:
        """Tensors and bytes of each format."""
        found: dict[str, dict[str, int]] = {}
        for entry, format in zip(self.entries, self.formats, strict=True):
            row = found.setdefault(format, {"tensors": 0, "n_bytes": 0})
            row["tensors"] += 1
            row["n_bytes"] += entry.n_bytes
        return found

    def notes(self) -> list[str]:
        """What a user of the new file should know."""
        notes = list(self.source.notes)
        if any(
            tensor.format not in _UNQUANTIZED and format not in (*_UNQUANTIZED, tensor.format)
            for tensor, format in zip(self.source.tensors, self.formats, strict=True)
        ):
            notes.append("the source is quantized already, so the errors of both formats add up")
        return notes


def _parts(tensor: SourceTensor, format: str, pool: ThreadPoolExecutor) -> Iterator[Bytes]:
    """The tensor's bytes in the new format; as they are where it is the old one."""
    n_rows = math.prod(tensor.shape[:-1])
    if not tensor.at_once:
        read = tensor.rows
    else:
        rows = tensor.rows(0, n_rows)

        def read(first: int, last: int) -> Bytes:
            return rows[first:last]

    step = max(1, _PART_VALUES // tensor.shape[-1])
    firsts = range(0, n_rows, step)
    if tensor.format == format and not tensor.added and tensor.delta is None:
        for first in firsts:
            yield np.ascontiguousarray(read(first, min(first + step, n_rows)))
        return

    def converted(first: int) -> Bytes:
        last = min(first + step, n_rows)
        values = formats.dequantize(read(first, last), tensor.format)
        if tensor.delta is not None:
            values = values + tensor.delta(first, last)
        if tensor.added:
            values += np.float32(tensor.added)
        return encode(values, format)

    yield from pool.map(converted, firsts)
