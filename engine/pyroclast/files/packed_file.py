"""Packed files (.pyro): a model's metadata, and its weights as the kernels read them in memory.

    64 bytes    magic, format version, byte order, layout version, 0, length of the header;
                SHA-256 of the header without these 32 bytes: the file's fingerprint
    header      number of keys and of entries; the keys and values of a GGUF file; the entries
    data        each entry at its offset, a multiple of 4096

An entry has a name, a weight format, a layout, a shape, an offset, a length and the SHA-256 of its
bytes.  The file is hostile input, as GGUF files are; the data's digests cost more time than loading
does, so only `check_digest` compares them.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyroclast.errors import ModelFileError
from pyroclast.files.gguf_metadata import MAX_NAME_BYTES, U32, U64, Cursor, Metadata, read_metadata
from pyroclast.files.model_file import ModelFile, missing_bytes
from pyroclast_kernels.weights import PACKED_FORMATS
from pyroclast_kernels.weights.formats import FORMATS
from pyroclast_kernels.weights.packing import LAYOUT_VERSION, packed_bytes

MAGIC = b"PYROPACK"
FORMAT_VERSION = 1
BYTE_ORDER = 0x01020304
ALIGNMENT = 4096
PREFIX_BYTES = 64
PREFIX = struct.Struct("<8sIIIIQ32s")
COUNTS = struct.Struct("<QQ")
LAYOUTS = ("rows", "packed")  # rows: as in a GGUF file

_MAX_FORMAT_BYTES = 64
_BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 32
# Lengths of two strings with a letter each, layout, dimensions, one of them, offset, length.
_MIN_ENTRY_BYTES = 9 + 9 + 4 + 4 + 8 + 8 + 8 + _DIGEST_BYTES
_AGAIN = "convert the model again (pyroclast convert SRC DST.pyro --packed)"


@dataclass(frozen=True)
class Entry:
    """One piece of data: a vector in the layout "rows", or the matrix (n_rows, n_cols) that a
    product reads in the layout "packed"."""

    name: str
    format: str
    layout: str
    shape: tuple[int, ...]
    n_bytes: int
    offset: int = 0
    digest: bytes = bytes(_DIGEST_BYTES)


def entry_name(names: Sequence[str]) -> str:
    """The entry of the product that these weights make, one below the other."""
    return "+".join(names)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a packed file; False for what cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return os.pread(descriptor, len(MAGIC), 0) == MAGIC
    except OSError:
        return False
    finally:
        os.close(descriptor)


class PackedFile:
    """An open packed file: metadata, and entries by name, whose places are checked.

    entries=False reads the metadata alone: the weights may be cut short.  complete and
    missing_bytes as in `GGUFFile`."""

    def __init__(
        self, path: str | os.PathLike[str], *, entries: bool = True, complete: bool = True
    ) -> None:
        self.path = os.fspath(path)
        self.file = ModelFile(self.path)
        try:
            cursor = Cursor(self.file)
            n_header, self.fingerprint = _read_prefix(cursor)
            cursor.size = n_header  # nothing of the header may reach into the data
            n_keys = cursor.count("metadata count", 8 + 1 + 4 + 1)
            n_entries = cursor.count("entry count", _MIN_ENTRY_BYTES)
            self.metadata: Metadata = read_metadata(cursor, n_keys)
            found = _read_entries(cursor, n_entries) if entries else []
            self.entries = {entry.name: entry for entry in found}
            self.missing_bytes = missing_bytes(self.file, found, complete=complete)
        except BaseException:
            self.file.close()
            raise

    def check_digests(self, show: Callable[[int], None] = lambda _: None) -> None:
        """Reads all data and compares its digests; show gets how many entries are done.  A
        ModelFileError names the entry that differs."""
        for n_done, entry in enumerate(self.entries.values()):
            if _digest(self.file, entry.offset, entry.n_bytes, entry.name) != entry.digest:
                raise ModelFileError(
                    f"{self.path}: {entry.name!r} is not what was written (its SHA-256 differs); "
                    f"copy the file again, or {_AGAIN}"
                )
            show(n_done + 1)

    def close(self) -> None:
        """Close the file, as ModelFile.close()."""
        self.file.close()


def _digest(file: ModelFile, offset: int, n_bytes: int, what: str, start: bytes = b"") -> bytes:
    """SHA-256 of `start` and of that piece of the file."""
    found = hashlib.sha256(start)
    for first in range(offset, offset + n_bytes, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, offset + n_bytes - first)
        found.update(file.read(first, size, repr(what)))
    return found.digest()


def _read_prefix(cursor: Cursor) -> tuple[int, str]:
    """Length of the header and fingerprint; every number of the prefix is checked."""
    raw = cursor.raw(PREFIX_BYTES, "the first 64 bytes")
    magic, version, order, layout, zero, n_header, digest = PREFIX.unpack(raw)
    if magic != MAGIC:
        raise cursor.error(f"not a packed file: it starts with {magic!r}")
    if order != BYTE_ORDER or sys.byteorder != "little":
        raise cursor.error(f"its byte order ({order:#010x}) is not this machine's; {_AGAIN}")
    if version != FORMAT_VERSION or zero:
        raise cursor.error(
            f"version {version}.{zero} of the packed format is unknown; known is {FORMAT_VERSION}; "
            f"{_AGAIN}"
        )
    if layout != LAYOUT_VERSION:
        raise cursor.error(
            f"its weights have layout {layout}, and these kernels read {LAYOUT_VERSION}; {_AGAIN}"
        )
    if not PREFIX_BYTES + COUNTS.size <= n_header <= cursor.size:
        raise cursor.error(
            f"its header should have {n_header} bytes, and the file has {cursor.size} (a download "
            "that was cut short?)"
        )
    start = raw[: PREFIX_BYTES - _DIGEST_BYTES]
    if _digest(cursor.file, PREFIX_BYTES, n_header - PREFIX_BYTES, "the header", start) != digest:
        raise cursor.error(f"its header is damaged (its SHA-256 differs); {_AGAIN}")
    return n_header, digest.hex()


def _read_entries(cursor: Cursor, n_entries: int) -> list[Entry]:
    """The table, every entry checked by itself and against the others, in the order of the data."""
    found: dict[str, Entry] = {}
    for index in range(n_entries):
        name = cursor.string(f"name of entry {index}", MAX_NAME_BYTES)
        if not name or name in found:
            raise cursor.error(f"entry {index} has {'a repeated' if name else 'an empty'} name: "
                               f"{name!r}")  # fmt: skip
        found[name] = _read_entry(cursor, name)
    entries = sorted(found.values(), key=lambda entry: entry.offset)
    for before, after in pairwise(entries):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.error(f"entries {before.name!r} and {after.name!r} overlap")
    return entries


def _read_entry(cursor: Cursor, name: str) -> Entry:
    what = f"entry {name!r}"
    format = cursor.string(f"format of {what}", _MAX_FORMAT_BYTES)
    layout = cursor.unpack(U32, f"layout of {what}")
    n_dims = cursor.unpack(U32, f"dimension count of {what}")
    if layout >= len(LAYOUTS):
        raise cursor.error(f"{what} has the unknown layout {layout}; {_AGAIN}")
    if n_dims != 1 + layout:
        raise cursor.error(f"{what} has {n_dims} dimensions; its layout has {1 + layout}")
    shape = tuple(cursor.unpack(U64, f"a dimension of {what}") for _ in range(n_dims))
    offset = cursor.unpack(U64, f"offset of {what}")
    n_bytes = cursor.unpack(U64, f"length of {what}")
    digest = cursor.raw(_DIGEST_BYTES, f"digest of {what}")
    expected = _entry_bytes(cursor, what, format, LAYOUTS[layout], shape)
    if n_bytes != expected:
        raise cursor.error(f"{what} has {n_bytes} bytes; its shape and format take {expected}")
    if offset % ALIGNMENT or offset < cursor.size:
        raise cursor.error(
            f"{what} starts at {offset}; allowed are multiples of {ALIGNMENT} behind the header, "
            f"which ends at {cursor.size}"
        )
    return Entry(name, format, LAYOUTS[layout], shape, n_bytes, offset, digest)


def _entry_bytes(
    cursor: Cursor, what: str, format: str, layout: str, shape: tuple[int, ...]
) -> int:
    """How many bytes data of that format and shape has."""
    known = PACKED_FORMATS if layout == "packed" else FORMATS
    if format not in known:
        raise cursor.error(f"{what} has the unknown format {format!r}; {_AGAIN}")
    block_columns = FORMATS[format].block_columns
    if 0 in shape or shape[-1] % block_columns:
        raise cursor.error(
            f"{what} has the shape {shape}; {format} needs a multiple of {block_columns} columns"
        )
    if layout == "packed":
        return packed_bytes(format, *shape)
    return math.prod(shape) // block_columns * FORMATS[format].block_bytes
