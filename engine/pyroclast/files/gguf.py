"""GGUF files (version 2 and 3, little endian): metadata and the table of tensors.

The file is hostile input.  Every length, count and offset is compared with the file's size
before it is used, and no allocation depends on an unchecked number.  Any error is a ModelFileError
that names the file and the key or tensor.  Weights are not read here.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise

from pyroclast.errors import UnsupportedModelError
from pyroclast.files.gguf_metadata import MAX_NAME_BYTES, U32, U64, Cursor, Metadata, read_metadata
from pyroclast.files.model_file import ModelFile, missing_bytes
from pyroclast_kernels.weights.formats import FORMATS

_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 16

_FORMAT_OF_TYPE = {
    layout.ggml_type: name for name, layout in FORMATS.items() if layout.ggml_type is not None
}
# Types that other programs know, so that the error can name them.
_OTHER_TYPES = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}


@dataclass(frozen=True)
class GGUFTensorInfo:
    """One tensor in the file: shape with rows first, offset in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    n_bytes: int

    @property
    def format(self) -> str:
        """The block format's name in `pyroclast_kernels.weights.formats`."""
        return _FORMAT_OF_TYPE[self.ggml_type]


class GGUFFile:
    """An open GGUF file: version, metadata, and tensors by name.

    weights=False reads the metadata alone, and tensors is empty: the weights may be cut short.
    complete=False also takes a file that was cut short among its weights; missing_bytes are what
    the tensors have beyond its end, and those bytes cannot be read."""

    def __init__(
        self, path: str | os.PathLike[str], *, weights: bool = True, complete: bool = True
    ) -> None:
        self.path = os.fspath(path)
        self.file = ModelFile(self.path)
        try:
            cursor = Cursor(self.file)
            self.version, n_tensors, n_keys = _read_header(cursor)
            self.metadata: Metadata = read_metadata(cursor, n_keys)
            infos = _read_tensor_infos(cursor, n_tensors) if weights else []
            self.tensors = _place_tensors(cursor, infos, self.metadata.get("general.alignment", 32))
            self.missing_bytes = missing_bytes(self.file, self.tensors.values(), complete=complete)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        """Close the file, as ModelFile.close()."""
        self.file.close()


def _read_header(cursor: Cursor) -> tuple[int, int, int]:
    magic = cursor.raw(min(4, cursor.size), "magic")
    if magic != b"GGUF":
        raise cursor.error(f"not a GGUF file: it starts with {magic!r} where b'GGUF' is expected")
    version = cursor.unpack(U32, "version")
    if version in (2 << 24, 3 << 24):
        raise cursor.error(
            f"a big-endian file (GGUF version {version >> 24}); only little-endian ones are "
            "supported: convert it with `gguf-convert-endian` of the package gguf"
        )
    if version not in (2, 3):
        raise cursor.error(f"GGUF version {version} is not supported; supported: 2, 3")
    # The minimum bytes of a tensor: name length and a letter, dimensions, type and offset; and of
    # a key: its length and a letter, type and a one-byte value.
    n_tensors = cursor.count("tensor count", 8 + 1 + 4 + 8 + 4 + 8)
    n_keys = cursor.count("metadata count", 8 + 1 + 4 + 1)
    return version, n_tensors, n_keys


def _read_tensor_infos(
    cursor: Cursor, n_tensors: int
) -> list[tuple[str, tuple[int, ...], int, int]]:
    """(name, shape, ggml_type, offset from the data section) of each tensor."""
    infos = []
    for index in range(n_tensors):
        name = cursor.string(f"name of tensor {index}", MAX_NAME_BYTES)
        what = f"tensor {name!r}"
        n_dims = cursor.unpack(U32, f"dimension count of {what}")
        if not 1 <= n_dims <= _MAX_DIMENSIONS:
            raise cursor.error(f"{what} has {n_dims} dimensions; allowed: 1 to {_MAX_DIMENSIONS}")
        dims = [cursor.unpack(U64, f"a dimension of {what}") for _ in range(n_dims)]
        ggml_type = cursor.unpack(U32, f"type of {what}")
        offset = cursor.unpack(U64, f"offset of {what}")
        infos.append((name, tuple(reversed(dims)), ggml_type, offset))
    return infos


def _place_tensors(
    cursor: Cursor, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: object
) -> dict[str, GGUFTensorInfo]:
    """Checks each tensor's type, shape and place against the file and the other tensors."""
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise cursor.error(
            f"general.alignment must be a power of two up to {_MAX_ALIGNMENT}, got {alignment!r}"
        )
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GGUFTensorInfo] = {}
    for name, shape, ggml_type, offset in infos:
        what = f"tensor {name!r}"
        if not name or name in tensors:
            raise cursor.error(f"{what}: the name is {'repeated' if name else 'empty'}")
        n_bytes = _tensor_bytes(cursor, what, shape, ggml_type)
        if offset % alignment:
            raise cursor.error(f"{what} starts at {offset}, which is not a multiple of {alignment}")
        start = data_start + offset
        tensors[name] = GGUFTensorInfo(name, shape, ggml_type, start, n_bytes)
    _check_overlaps(cursor, tensors)
    return tensors


def _tensor_bytes(cursor: Cursor, what: str, shape: tuple[int, ...], ggml_type: int) -> int:
    if ggml_type not in _FORMAT_OF_TYPE:
        type_name = _OTHER_TYPES.get(ggml_type, "unknown")
        raise UnsupportedModelError(
            f"{cursor.file.path}: {what} has type {ggml_type} ({type_name}); supported: "
            + ", ".join(name.upper() for name in _FORMAT_OF_TYPE.values())
        )
    layout = FORMATS[_FORMAT_OF_TYPE[ggml_type]]
    if 0 in shape:
        raise cursor.error(f"{what} has a zero dimension: {shape}")
    if shape[-1] % layout.block_columns:
        raise cursor.error(
            f"{what} has rows of {shape[-1]} values; {layout.name.upper()} needs a multiple of "
            f"{layout.block_columns}"
        )
    return math.prod(shape) // layout.block_columns * layout.block_bytes


def _check_overlaps(cursor: Cursor, tensors: dict[str, GGUFTensorInfo]) -> None:
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.error(f"tensors {before.name!r} and {after.name!r} overlap")
