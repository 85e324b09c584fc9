"""How a page lies in a file: bytes in, bytes out, every one of them checked.

    file    header, then records of one size
    header  magic, version, the identity of the cache, the number of pages (0: as many as follow)
    state   of models with recurrent layers, behind the pages of a saved state: that at the end of
            the last page, and its checksum
    record  header (identity, root, parent, key, token ids, checksum of the page), then the page:
            keys and values of each layer, as they lie in the cache

Snapshots, the states of recurrent layers behind pages, lie in segments of their own.  Such a record
has the state in place of the page, and a digest of all the text in place of the page's ids.

A page is one full block of the KV cache.  `root` stands for the salt and the adapter, `parent` and
`key` for the text before the page and up to its end, as in the prefix cache.  Both headers end in a
checksum of their own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

from pyroclast.model.cache_identity import CacheIdentity

VERSION = 1
SEGMENT, STATE, SNAPSHOTS = b"PYROPAGE", b"PYROSTAT", b"PYROSNAP"
MAX_ROOT_BYTES = 32
N_TEXT_BYTES = 64
HEADER_BYTES = 128
_HEADER = struct.Struct("<8sII16s16s8sQQ")
_RECORD = struct.Struct(f"<4sI16s{MAX_ROOT_BYTES + 1}p17p16s")
_MARK = b"page"
_N_SUM_BYTES = 16
_ALIGNMENT = 64
_KINDS = {
    SEGMENT: "a file of cached pages",
    STATE: "a saved state",
    SNAPSHOTS: "a file of snapshots",
}


class PageError(Exception):
    """Bytes that are no page of this cache; the message says why, behind the file's name."""


class Page(NamedTuple):
    """The text of a page: the ids in it, and by hash what stands before it.  A snapshot has the
    text of the page that it is behind, with N_TEXT_BYTES of `TextDigest` as ids."""

    root: bytes
    parent: bytes  # empty for the first page
    key: bytes
    ids: bytes


class PageFormat:
    """Files of one identity.  digest: 16 bytes that stand for it.  n_state_bytes: of the state of
    recurrent layers.  magic: of segments, which hold pages or snapshots."""

    def __init__(
        self, identity: CacheIdentity, n_state_bytes: int = 0, magic: bytes = SEGMENT
    ) -> None:
        self.identity, self.n_state_bytes, self.magic = identity, n_state_bytes, magic
        self.noun = "snapshot" if magic == SNAPSHOTS else "page"
        self.digest = _checksum(_header(magic, identity, 0))
        n_id_bytes = N_TEXT_BYTES if magic == SNAPSHOTS else 4 * identity.block_size
        self.record_sum_at = _RECORD.size + n_id_bytes  # in a record's header
        n_bytes = self.record_sum_at + _N_SUM_BYTES
        self.record_header_bytes = -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
        self.record_bytes = self.record_header_bytes + identity.page_bytes

    @property
    def snapshots(self) -> PageFormat | None:
        """The format of their segments; None for models without recurrent layers."""
        if not self.n_state_bytes:
            return None
        return PageFormat(replace(self.identity, page_bytes=self.n_state_bytes), magic=SNAPSHOTS)

    @property
    def n_tail_bytes(self) -> int:
        """Of what follows the pages of a saved state."""
        return self.n_state_bytes + _N_SUM_BYTES if self.n_state_bytes else 0

    def tail(self, state: bytes) -> bytes:
        """What follows the pages."""
        return state + _checksum(state) if self.n_state_bytes else b""

    def read_tail(self, raw: bytes) -> bytes:
        """The state; PageError if it is damaged."""
        state = raw[: self.n_state_bytes]
        if raw != self.tail(state):
            raise PageError("the state of the recurrent layers is damaged")
        return state

    def file_header(self, magic: bytes, n_pages: int = 0) -> bytes:
        """The first HEADER_BYTES bytes of a file."""
        return _sealed(_header(magic, self.identity, n_pages), HEADER_BYTES)

    def read_file_header(self, raw: bytes, magic: bytes) -> int:
        """The number of pages that a file's header gives; PageError unless it is of this cache."""
        if len(raw) < HEADER_BYTES:
            raise PageError(f"it ends within its header, after {len(raw)} bytes")
        fields = _HEADER.unpack_from(raw)
        if fields[0] != magic:
            raise PageError(f"it is not {_KINDS[magic]}: it begins with {fields[0]!r}")
        if fields[1] != VERSION:
            raise PageError(f"it has version {fields[1]} of the format, this is version {VERSION}")
        if not _is_sealed(raw[:HEADER_BYTES], _HEADER.size):
            raise PageError("its header is damaged")
        self._compare(fields)
        n_pages: int = fields[-1]
        return n_pages

    def _compare(self, fields: tuple[Any, ...]) -> None:
        """PageError that says in what the identity in a header differs."""
        ours = self.identity
        _, _, block_size, model, kernels, kv_dtype, page_bytes, _ = fields
        named = kv_dtype.rstrip(b"\0").decode("ascii", "replace")
        if model != ours.model:
            raise PageError("another model made it, or the same with other weights or `compute`")
        if named != ours.kv_dtype:
            raise PageError(f"it has kv_dtype {named!r}, this model {ours.kv_dtype!r}")
        if kernels != ours.kernels:
            raise PageError("kernels made it whose bits may differ from those that run here")
        if (block_size, page_bytes) != (ours.block_size, ours.page_bytes):
            raise PageError(
                f"its {self.noun}s have {block_size} positions in {page_bytes} bytes, this model's "
                f"{ours.block_size} in {ours.page_bytes}"
            )

    def record_header(self, page: Page, checksum: int) -> bytes:
        """What stands before a page with that checksum."""
        fields = _RECORD.pack(_MARK, checksum, self.digest, page.root, page.parent, page.key)
        return _sealed(fields + page.ids, self.record_header_bytes)

    def read_record(self, raw: bytes) -> tuple[Page, int]:
        """The page and its checksum that a record's header gives; PageError if it is damaged or of
        another cache."""
        end = self.record_sum_at
        if len(raw) != self.record_header_bytes or not _is_sealed(raw, end):
            raise PageError(f"a {self.noun}'s header is damaged")
        mark, checksum, digest, root, parent, key = _RECORD.unpack_from(raw)
        if mark != _MARK or digest != self.digest:
            raise PageError(f"a {self.noun} of another model or format lies in it")
        return Page(root, parent, key, raw[_RECORD.size : end]), checksum


class TextDigest:
    """Of all ids of a text, page by page.  A page's key is a short hash, and whoever finds the page
    compares its ids; a snapshot has no room for those of its whole text."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=N_TEXT_BYTES)

    def add(self, ids: bytes) -> None:
        """The next page's."""
        self._hash.update(ids)

    def digest(self) -> bytes:
        """N_TEXT_BYTES of what was added so far."""
        return self._hash.digest()


def text_of_snapshot(root: bytes, pages: Sequence[tuple[bytes, bytes]]) -> Page:
    """The text of the snapshot behind all these pages (key, ids), one at least."""
    text = TextDigest()
    for _, ids in pages:
        text.add(ids)
    parent = pages[-2][0] if len(pages) > 1 else b""
    return Page(root, parent, pages[-1][0], text.digest())


def checksum_of(arrays: Iterable[Any]) -> int:
    """CRC-32 of arrays one after the other: it finds damage, and runs at the speed of memory."""
    found = 0
    for array in arrays:
        found = zlib.crc32(array, found)
    return found


def _header(magic: bytes, identity: CacheIdentity, n_pages: int) -> bytes:
    kv_dtype = identity.kv_dtype.encode()
    sizes = identity.page_bytes, n_pages
    return _HEADER.pack(
        magic, VERSION, identity.block_size, identity.model, identity.kernels, kv_dtype, *sizes
    )


def _checksum(raw: bytes) -> bytes:
    return blake2b(raw, digest_size=_N_SUM_BYTES).digest()


def _sealed(raw: bytes, n_bytes: int) -> bytes:
    """Followed by its checksum, and by zeros up to n_bytes."""
    return (raw + _checksum(raw)).ljust(n_bytes, b"\0")


def _is_sealed(raw: bytes, end: int) -> bool:
    return raw == _sealed(raw[:end], len(raw))
