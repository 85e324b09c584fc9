"""Writing a packed file: entries one after the other, then the header, which has their digests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from pyroclast.files.packed_file import (
    ALIGNMENT,
    BYTE_ORDER,
    COUNTS,
    FORMAT_VERSION,
    LAYOUTS,
    MAGIC,
    PREFIX,
    PREFIX_BYTES,
    Entry,
)
from pyroclast_kernels.weights.packing import LAYOUT_VERSION

# A file system that keeps large pages in memory makes them of whole, aligned writes: then a
# decoding step reads a mapped file as fast as memory in huge pages.
_CHUNK_BYTES = 32 << 20


class PackedWriter:
    """Fills an empty file with the planned entries, added in their order.  metadata: key -> the
    bytes of its value (`gguf_writer.Value`)."""

    def __init__(
        self, file: BinaryIO, metadata: Mapping[str, bytes], planned: Sequence[Entry]
    ) -> None:
        self._file, self._metadata = file, metadata
        self._entries = placed(metadata, planned)
        self._n_written = 0
        self._chunk = bytearray()
        self._write(bytes(len(header(metadata, planned))))

    def add(self, name: str, data: Any) -> None:
        """The next entry's bytes."""
        entry = self._entries[self._n_written]
        view = memoryview(data).cast("B")
        assert (name, len(view)) == (entry.name, entry.n_bytes), "another entry than was planned"
        self._write(bytes(-(self._file.tell() + len(self._chunk)) % ALIGNMENT))
        self._write(view)
        self._entries[self._n_written] = replace(entry, digest=hashlib.sha256(view).digest())
        self._n_written += 1

    def finish(self) -> int:
        """Writes the header, now that all entries are there; returns the size of the file."""
        assert self._n_written == len(self._entries), "fewer entries than were planned"
        self._file.write(self._chunk)
        n_bytes = self._file.tell()
        self._file.seek(0)
        self._file.write(header(self._metadata, self._entries))
        return n_bytes

    def _write(self, data: bytes | memoryview) -> None:
        """The next bytes, which reach the file in chunks that are aligned there."""
        view = memoryview(data)
        while len(self._chunk) + len(view) >= _CHUNK_BYTES:
            n_bytes = _CHUNK_BYTES - len(self._chunk)
            self._chunk += view[:n_bytes]
            self._file.write(self._chunk)
            self._chunk, view = bytearray(), view[n_bytes:]
        self._chunk += view


def placed(metadata: Mapping[str, bytes], planned: Sequence[Entry]) -> list[Entry]:
    """The same entries, each at its offset."""
    end = len(header(metadata, planned))
    found = []
    for entry in planned:
        found.append(replace(entry, offset=_aligned(end)))
        end = _aligned(end) + entry.n_bytes
    return found


def header(metadata: Mapping[str, bytes], entries: Sequence[Entry]) -> bytes:
    """All that stands before the data; its length does not depend on offsets and digests."""
    body = b"".join([COUNTS.pack(len(metadata), len(entries)), *_body(metadata, entries)])
    numbers = FORMAT_VERSION, BYTE_ORDER, LAYOUT_VERSION, 0, PREFIX_BYTES + len(body)
    start = PREFIX.pack(MAGIC, *numbers, b"")[:-32]
    return start + hashlib.sha256(start + body).digest() + body


def _body(metadata: Mapping[str, bytes], entries: Sequence[Entry]) -> Iterator[bytes]:
    for key, value in metadata.items():
        yield _string(key)
        yield value
    for entry in entries:
        yield _string(entry.name) + _string(entry.format)
        yield struct.pack("<II", LAYOUTS.index(entry.layout), len(entry.shape))
        yield struct.pack(f"<{len(entry.shape)}Q", *entry.shape)
        yield struct.pack("<QQ", entry.offset, entry.n_bytes) + entry.digest


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
