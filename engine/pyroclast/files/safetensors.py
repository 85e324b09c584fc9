"""One safetensors file: its table of tensors, checked against the file, and reading it.

The `safetensors` package is not used for reading because its NumPy interface copies every tensor
and does not support bfloat16.  The file is hostile input, as in `pyroclast.files.gguf`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pyroclast.errors import ModelFileError
from pyroclast.files.model_file import ModelFile, missing_bytes
from pyroclast.files.small_file import parse_json

# dtype -> bytes of one value; only those in _FORMAT_OF_DTYPE can be weights.
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_FORMAT_OF_DTYPE = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class SafetensorsInfo:
    """One tensor in the file: dtype as the file names it, offset from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def format(self) -> str | None:
        """The weight format of this dtype, or None if it cannot be a weight."""
        return _FORMAT_OF_DTYPE.get(self.dtype)


class SafetensorsFile:
    """An open safetensors file: tensors by name; complete and missing_bytes as in `GGUFFile`."""

    def __init__(self, path: str, *, complete: bool = True) -> None:
        self.path = path
        self.file = ModelFile(path)
        try:
            header, data_start = _read_header(self.file)
            self.tensors = _read_infos(self.file, header, data_start)
            self.missing_bytes = missing_bytes(self.file, self.tensors.values(), complete=complete)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        """Close the file, as ModelFile.close()."""
        self.file.close()


def parse_json_object(text: bytes, what: str, *, unique_keys: bool = False) -> dict[str, Any]:
    """A JSON object from untrusted bytes, or a ModelFileError that begins with `what`."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, item in pairs:
            if unique_keys and name in result:
                raise ModelFileError(f"{what}: the name {name!r} is repeated")
            result[name] = item
        return result

    try:
        value = parse_json(text.decode("utf-8"), object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{what}: must be a JSON object, got {type(value).__name__}")
    return value


def _read_header(file: ModelFile) -> tuple[dict[str, Any], int]:
    if file.size < 8:
        raise ModelFileError(f"{file.path}: {file.size} bytes are too few for a safetensors file")
    length = int.from_bytes(file.read(0, 8, "the header's length"), "little")
    if length > min(_MAX_HEADER_BYTES, file.size - 8):
        raise ModelFileError(
            f"{file.path}: the header claims {length} bytes; the file has {file.size} in all, and "
            f"the format allows {_MAX_HEADER_BYTES} (not a safetensors file, or one cut short?)"
        )
    text = file.read(8, length, "the header")
    return parse_json_object(text, f"{file.path}: header", unique_keys=True), 8 + length


def _read_infos(
    file: ModelFile, header: dict[str, Any], data_start: int
) -> dict[str, SafetensorsInfo]:
    infos: dict[str, SafetensorsInfo] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            infos[name] = _read_info(file, name, entry, data_start)
    for before, after in pairwise(sorted(infos.values(), key=lambda info: info.offset)):
        if before.offset + before.n_bytes > after.offset:
            raise ModelFileError(f"{file.path}: tensors {before.name!r} and {after.name!r} overlap")
    return infos


def _read_info(file: ModelFile, name: str, entry: object, data_start: int) -> SafetensorsInfo:
    what = f"{file.path}: tensor {name!r}"
    if not isinstance(entry, dict):
        raise ModelFileError(f"{what}: its entry must be an object, got {entry!r}")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise ModelFileError(f"{what} has dtype {dtype!r}; known: {', '.join(_DTYPE_BYTES)}")
    if not _are_sizes(shape, _MAX_DIMENSIONS):
        raise ModelFileError(f"{what} has shape {shape!r}; it must be a list of sizes")
    if not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise ModelFileError(f"{what} has data_offsets {offsets!r}; it must be two offsets")
    begin, end = offsets
    n_bytes = math.prod(shape) * _DTYPE_BYTES[dtype]
    if end - begin != n_bytes:
        raise ModelFileError(
            f"{what}: {dtype} of shape {shape} takes {n_bytes} bytes, data_offsets give "
            f"{end - begin}"
        )
    return SafetensorsInfo(name, dtype, tuple(shape), data_start + begin, n_bytes)


def _are_sizes(value: Any, max_length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= max_length
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )
