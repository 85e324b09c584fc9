"""A packed file as parts that can lie about each other, written by no code of Pyroclast."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from pyroclast.files.packed_file import PackedFile
from torture import mutate
from torture.gguf_image import change_data, change_key, string

_FORMATS = [b"f32", b"f16", b"q8_0", b"q4_0", b"q6_k", b"iq4_xs", b"iq1_s", b"t4_k", b"", b"\xff"]


@dataclass(frozen=True)
class PackedEntry:
    """A row of the table; n_dims None: as many as dims has."""

    name: bytes
    format: bytes
    layout: int
    dims: tuple[int, ...]
    offset: int
    n_bytes: int
    digest: bytes
    n_dims: int | None = None

    def to_bytes(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        numbers = [*self.dims, self.offset, self.n_bytes]
        places = struct.pack(f"<{len(numbers)}Q", *(number % (1 << 64) for number in numbers))
        start = struct.pack("<II", self.layout % (1 << 32), n_dims % (1 << 32))
        return string(self.name) + string(self.format) + start + places + self.digest


@dataclass
class PackedImage:
    """keys, values, words and data as in `gguf_image.Image`; data begins at data_start."""

    keys: list[tuple[bytes, bytes]]
    values: dict[bytes, Any]
    entries: list[PackedEntry]
    data: bytes
    data_start: int
    prefix: tuple[Any, ...] = (b"PYROPACK", 1, 0x01020304, 1, 0)
    n_keys: int | None = None
    n_entries: int | None = None
    n_header: int | None = None
    is_digest_true: bool = True
    words: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> PackedImage:
        file = PackedFile(path)
        keys = [(key.encode(), file.metadata.raw(key)) for key in file.metadata]
        values = {key.encode(): file.metadata[key] for key in file.metadata}
        entries = [
            PackedEntry(
                e.name.encode(), e.format.encode(), e.layout == "packed", e.shape, e.offset,
                e.n_bytes, e.digest,
            )
            for e in file.entries.values()
        ]  # fmt: skip
        start = min(entry.offset for entry in entries)
        words = mutate.words_of(list(file.metadata), list(values.values()))
        file.close()
        return cls(keys, values, entries, path.read_bytes()[start:], start, words=words)

    def to_bytes(self) -> bytes:
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        n_entries = len(self.entries) if self.n_entries is None else self.n_entries
        parts = [struct.pack("<QQ", n_keys, n_entries)]
        for name, raw in self.keys:
            parts += [string(name), raw]
        parts += [entry.to_bytes() for entry in self.entries]
        body = b"".join(parts)
        n_header = 64 + len(body) if self.n_header is None else self.n_header
        start = struct.pack("<8sIIIIQ", *self.prefix, n_header)
        digest = hashlib.sha256(start + body).digest() if self.is_digest_true else bytes(32)
        whole = start + digest + body
        return whole + bytes(max(0, self.data_start - len(whole))) + self.data


def mutated_packed(dice: Random, base: PackedImage, extra_keys: list[bytes]) -> bytes:
    """A file like base with some of its parts changed."""
    image = replace(base, keys=list(base.keys), entries=list(base.entries))
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        kind = dice.randrange(20)
        if kind < 5:
            change_key(dice, image, extra_keys)
        elif kind < 15 and image.entries:
            _change_entry(dice, image)
        elif kind < 18:
            change_data(dice, image)
        else:
            _change_header(dice, image)
    data = image.to_bytes()
    return mutate.raw(dice, data) if dice.random() < 0.1 else data


def _change_entry(dice: Random, image: PackedImage) -> None:
    at = dice.randrange(len(image.entries))
    entry, other = image.entries[at], dice.choice(image.entries)
    kind = dice.randrange(12)
    if kind == 0:
        del image.entries[at]
    elif kind == 1:
        name = dice.choice([entry.name, b"", b"x", b"\xff", entry.name + b"+" + other.name])
        image.entries.append(replace(entry, name=name))
    elif kind == 2:
        image.entries[at] = replace(entry, name=other.name)
    elif kind == 3:
        image.entries[at] = replace(entry, offset=mutate.integer(dice, entry.offset))
    elif kind == 4:
        image.entries[at] = replace(entry, offset=other.offset)
    elif kind == 5:
        image.entries[at] = replace(entry, n_bytes=mutate.integer(dice, entry.n_bytes))
    elif kind == 6:
        image.entries[at] = replace(entry, format=dice.choice(_FORMATS))
    elif kind == 7:
        image.entries[at] = replace(entry, layout=mutate.integer(dice, entry.layout))
    elif kind == 8:
        image.entries[at] = replace(entry, dims=dice.choice([other.dims, entry.dims[::-1], ()]))
    elif kind == 9:
        image.entries[at] = replace(entry, n_dims=mutate.integer(dice, len(entry.dims)))
    elif kind == 10:
        image.entries[at] = replace(entry, digest=dice.randbytes(32))
    else:
        dims = list(entry.dims)
        i = dice.randrange(len(dims))
        dims[i] = mutate.integer(dice, dims[i])
        image.entries[at] = replace(entry, dims=tuple(dims))


def _change_header(dice: Random, image: PackedImage) -> None:
    kind = dice.randrange(5)
    if kind == 0:
        image.n_keys = mutate.integer(dice, len(image.keys)) % (1 << 64)
    elif kind == 1:
        image.n_entries = mutate.integer(dice, len(image.entries)) % (1 << 64)
    elif kind == 2:
        image.n_header = mutate.integer(dice, 4096) % (1 << 64)
    elif kind == 3:
        image.is_digest_true = False
    else:
        prefix = list(image.prefix)
        i = dice.randrange(1, len(prefix))
        prefix[i] = mutate.integer(dice, prefix[i]) % (1 << 32)
        image.prefix = tuple(prefix)
