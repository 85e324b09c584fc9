"""Writing a GGUF file (version 3): typed values, the header, tensors one after the other.

A file takes its name only when it is whole: until then, and after any error, what had the name
before is still there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pyroclast.errors import ModelFileError
from pyroclast_kernels import whole_file

ALIGNMENT = 32
_VERSION = 3
# kind -> number of its type, layout of one value
_KINDS = {"u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?")}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Value:
    """A value of the metadata.  kind: u32, i32, f32, bool, str; or [kind] for a list of these."""

    kind: str
    value: Any

    def to_bytes(self) -> bytes:
        """The type's number and the value, as they lie in a file."""
        if self.kind.startswith("["):
            kind = self.kind[1:-1]
            data = b"".join(_value_bytes(kind, each) for each in self.value)
            return struct.pack("<IIQ", _ARRAY, _type_of(kind), len(self.value)) + data
        return struct.pack("<I", _type_of(self.kind)) + _value_bytes(self.kind, self.value)


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that a file will have: shape with rows first."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    n_bytes: int


def _type_of(kind: str) -> int:
    return _STRING if kind == "str" else _KINDS[kind][0]


def _value_bytes(kind: str, value: Any) -> bytes:
    return _string(value) if kind == "str" else struct.pack("<" + _KINDS[kind][1], value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def header(metadata: Mapping[str, bytes], tensors: Sequence[TensorEntry]) -> bytes:
    """All that stands before the first tensor; the metadata's values are as Value.to_bytes gives
    them."""
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), value]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        parts.append(struct.pack("<IQ", tensor.ggml_type, offset))
        offset += tensor.n_bytes + padding(tensor.n_bytes)
    data = b"".join(parts)
    return data + bytes(padding(len(data)))


def padding(n_bytes: int) -> int:
    """How many zeros follow so many bytes."""
    return -n_bytes % ALIGNMENT


def write_tensor(file: BinaryIO, tensor: TensorEntry, parts: Iterable[Any]) -> None:
    """The next tensor's bytes, in parts."""
    n_written = 0
    for part in parts:
        n_written += file.write(part)
    assert n_written == tensor.n_bytes, "a tensor of another size than its entry says"
    file.write(bytes(padding(n_written)))


@contextmanager
def replacing(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """A new file of about n_bytes that takes the place of `path` when the block ends; any error
    leaves what was there, and one of the system is a ModelFileError."""
    try:
        whole_file.sweep(Path(os.path.realpath(path)))  # it may take the room that is wanted
        _check_room(path, n_bytes)
        with whole_file.replacing(path) as file:
            yield file
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written: {error.strerror or error}; about {n_bytes >> 20} MiB "
            "are needed there"
        ) from error


def _check_room(path: Path, n_bytes: int) -> None:
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; name the file to write, such as model.gguf")
    if not path.parent.is_dir():
        raise ModelFileError(f"{path.parent}: no such folder; make it first")
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if n_bytes > free:
        raise ModelFileError(
            f"{path}: {n_bytes >> 20} MiB are needed and {free >> 20} MiB are free; choose another "
            "place or a smaller format"
        )
