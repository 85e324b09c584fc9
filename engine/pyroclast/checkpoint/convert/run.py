"""The conversion itself: one tensor after the other, in parts that several threads encode."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyroclast.checkpoint.convert.folder import folder_source
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
from pyroclast.checkpoint.open import find_model
from pyroclast.errors import ModelFileError
from pyroclast.files.gguf_writer import TensorEntry, Value, header, replacing, write_tensor
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
    threads: int | None = None,
    bar: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Converted:
    """Writes the model `source` as the GGUF file `target`, in the format or mix `to`.
    bar gets the number of tensors, and gives a function that gets how many are done."""
    check_target(to)
    opened = _open(source, Path(target))
    try:
        pairs = zip(opened.tensors, opened.places(), strict=True)
        chosen = [_format(tensor, place, to) for tensor, place in pairs]
        n_threads = threads or features.n_cpus()
        return _write(opened, chosen, Path(target), to, n_threads, bar(len(chosen)))
    finally:
        opened.files.close()


def _open(source: str, target: Path) -> Source:
    if source.startswith(PREFIX):
        raise ModelFileError(f"{source!r}: random weights are not converted; name a file or folder")
    path, to_format = find_model(source)
    if to_format is not None:
        raise ModelFileError(f"{source!r}: leave out @{to_format}; --to names the format")
    if target.exists() and os.path.samefile(path, target):
        raise ModelFileError(f"{target}: is what is to be converted; name another file")
    return folder_source(path) if path.is_dir() else gguf_source(path)


def _format(tensor: SourceTensor, place: Place, to: str) -> str:
    if is_matrix(tensor.name, tensor.shape):
        return format_of(to, place, tensor.shape[-1])
    # A vector of a folder in bf16; a file's are what its writer chose.
    return "f32" if tensor.format in _UNQUANTIZED else tensor.format


def _write(
    source: Source,
    chosen: list[str],
    target: Path,
    to: str,
    n_threads: int,
    on_tensor: Callable[[int], None],
) -> Converted:
    entries = [
        TensorEntry(
            tensor.name,
            tensor.shape,
            formats.FORMATS[format].ggml_type or 0,
            n_bytes_of(tensor.shape, format),
        )
        for tensor, format in zip(source.tensors, chosen, strict=True)
    ]
    numbers = {"general.file_type": FILE_TYPES[to], "general.quantization_version": 2}
    more = {key: Value("u32", number).to_bytes() for key, number in numbers.items()}
    start = header(source.metadata | more, entries)
    n_bytes = len(start) + sum(entry.n_bytes for entry in entries)
    with replacing(target, n_bytes) as file, ThreadPoolExecutor(n_threads) as pool:
        file.write(start)
        for i, (tensor, format) in enumerate(zip(source.tensors, chosen, strict=True)):
            write_tensor(file, entries[i], _parts(tensor, format, pool))
            on_tensor(i + 1)
        n_bytes = file.tell()
    notes = [*source.notes, *_losses(source, chosen)]
    return Converted(str(target), n_bytes, _counts(entries, chosen), notes)


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
    if tensor.format == format and not tensor.added:
        for first in firsts:
            yield np.ascontiguousarray(read(first, min(first + step, n_rows)))
        return

    def converted(first: int) -> Bytes:
        values = formats.dequantize(read(first, min(first + step, n_rows)), tensor.format)
        if tensor.added:
            values += np.float32(tensor.added)
        return encode(values, format)

    yield from pool.map(converted, firsts)


def _counts(entries: list[TensorEntry], chosen: list[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for entry, format in zip(entries, chosen, strict=True):
        row = found.setdefault(format, {"tensors": 0, "n_bytes": 0})
        row["tensors"] += 1
        row["n_bytes"] += entry.n_bytes
    return found


def _losses(source: Source, chosen: list[str]) -> Iterator[str]:
    if any(
        tensor.format not in _UNQUANTIZED and format not in (*_UNQUANTIZED, tensor.format)
        for tensor, format in zip(source.tensors, chosen, strict=True)
    ):
        yield "the source is quantized already, so the errors of both formats add up"
