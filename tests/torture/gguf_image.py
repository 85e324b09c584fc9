"""A GGUF file as parts that can lie about each other, written by no code of Pyroclast."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from pyroclast.files.gguf import GGUFFile
from pyroclast_kernels.weights.formats import FORMATS
from torture import mutate

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LAYOUTS = {f.ggml_type: f for f in FORMATS.values() if f.ggml_type is not None}


@dataclass(frozen=True)
class TensorEntry:
    """A row of the table; dims as the file has them, n_dims None: as many."""

    name: bytes
    dims: tuple[int, ...]
    type: int
    offset: int
    n_dims: int | None = None

    def to_bytes(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = struct.pack(f"<{len(self.dims)}Q", *(dim % (1 << 64) for dim in self.dims))
        end = struct.pack("<IQ", self.type % (1 << 32), self.offset % (1 << 64))
        return string(self.name) + struct.pack("<I", n_dims % (1 << 32)) + dims + end


@dataclass
class Image:
    """keys: (name, type and value as bytes); the counts are true unless given."""

    keys: list[tuple[bytes, bytes]]
    values: dict[bytes, Any]
    tensors: list[TensorEntry]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    words: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, max_data: int = -1) -> Image:
        """Of a file; max_data: only so many bytes of its tensors, -1 for all."""
        file = GGUFFile(path)
        keys = [(key.encode(), file.metadata.raw(key)) for key in file.metadata]
        values = {key.encode(): file.metadata[key] for key in file.metadata}
        infos = list(file.tensors.values())
        start = min((info.offset for info in infos), default=file.file.size)
        tensors = [
            TensorEntry(i.name.encode(), i.shape[::-1], i.ggml_type, i.offset - start)
            for i in infos
        ]
        with path.open("rb") as whole:
            whole.seek(start)
            data = whole.read(max_data)
        words = mutate.words_of(list(file.metadata), list(values.values()))
        file.close()
        return cls(keys, values, tensors, data, words=words)

    def copy(self) -> Image:
        return replace(self, keys=list(self.keys), tensors=list(self.tensors))

    def to_bytes(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        parts = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        for name, raw in self.keys:
            parts += [string(name), raw]
        parts += [tensor.to_bytes() for tensor in self.tensors]
        start = b"".join(parts)
        return start + bytes(-len(start) % 32) + self.data


def string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def typed(dice: Random, value: Any, type_id: int | None = None) -> bytes:
    """The type and bytes of a value, as GGUF has it; a type may be asked for."""
    if type_id is None:
        type_id = _type_of(dice, value)
    return struct.pack("<I", type_id) + _payload(dice, value, type_id)


def _type_of(dice: Random, value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, int):
        return dice.choice([4, 5, 10, 11]) if abs(value) < 1 << 31 else dice.choice([10, 11])
    if isinstance(value, float):
        return dice.choice([6, 12])
    return _ARRAY if isinstance(value, list) else _STRING


def _payload(dice: Random, value: Any, type_id: int) -> bytes:
    if type_id == _STRING:
        return string(str(value).encode("utf-8", "surrogatepass"))
    if type_id != _ARRAY:
        return _number(value, _CODES.get(type_id, "Q"))
    items = value if isinstance(value, list) else [value]
    item_type = _type_of(dice, items[0]) if items else 4
    count = len(items) if dice.random() < 0.95 else mutate.integer(dice, len(items)) % (1 << 64)
    data = b"".join([_payload(dice, item, item_type) for item in items])
    if dice.random() < 0.03:
        item_type = dice.randrange(14)
    return struct.pack("<IQ", item_type, count) + data


def _number(value: Any, code: str) -> bytes:
    number = value if isinstance(value, int | float) else 1
    if code in "fd":
        try:
            return struct.pack("<" + code, float(number))
        except OverflowError:
            return struct.pack("<" + code, math.inf)
    if isinstance(number, float):
        number = int(number) if math.isfinite(number) else 0
    return (number % (1 << 64)).to_bytes(8, "little")[: struct.calcsize("<" + code)]


# ---- mutations -----------------------------------------------------------------------------


def mutated(dice: Random, base: Image, extra_keys: list[bytes]) -> bytes:
    """A file like base with some of its parts changed."""
    image = base.copy()
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        kind = dice.randrange(20)
        if kind < 9:
            change_key(dice, image, extra_keys)
        elif kind < 17 and image.tensors:
            _change_tensor(dice, image)
        elif kind < 19:
            change_data(dice, image)
        else:
            _change_header(dice, image)
    data = image.to_bytes()
    return mutate.raw(dice, data) if dice.random() < 0.1 else data


def change_key(dice: Random, image: Any, extra_keys: list[bytes]) -> None:
    """Changes one of image.keys, of a file that has keys as GGUF files have them."""
    if not image.keys:
        return
    at = dice.randrange(len(image.keys))
    name, raw = image.keys[at]
    kind = dice.randrange(16)
    if kind == 0:
        del image.keys[at]
    elif kind == 1:
        image.keys.insert(dice.randrange(len(image.keys)), (name, raw))
    elif kind == 2:
        image.keys[at] = (
            dice.choice([b"", b"\xff", b"x" * 65536, dice.choice(image.keys)[0]]),
            raw,
        )
    elif kind == 3:
        other = dice.randrange(len(image.keys))
        image.keys[at], image.keys[other] = (
            (name, image.keys[other][1]),
            (image.keys[other][0], raw),
        )
    elif kind <= 6:
        name = dice.choice(extra_keys)
        image.keys = [pair for pair in image.keys if pair[0] != name]
        image.keys.append((name, typed(dice, mutate.value(dice, image.words, 1))))
    elif kind == 7:
        depth = dice.choice([2, 5, 5000])
        image.keys[at] = (name, struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth)
    elif kind == 8:
        image.keys[at] = (name, struct.pack("<I", dice.randrange(14)) + raw[4:])
    elif kind <= 10 or name not in image.values:
        image.keys[at] = (name, typed(dice, mutate.value(dice, image.words, 1)))
    else:
        old = image.values[name]
        new = mutate.tree(dice, old, image.words)
        type_id = int.from_bytes(raw[:4], "little") if type(new) is type(old) else None
        image.keys[at] = (name, typed(dice, new, type_id))


def _change_tensor(dice: Random, image: Image) -> None:
    at = dice.randrange(len(image.tensors))
    tensor, other = image.tensors[at], dice.choice(image.tensors)
    kind = dice.randrange(12)
    if kind == 0:
        del image.tensors[at]
    elif kind == 1:
        image.tensors.append(replace(tensor, name=dice.choice([tensor.name, b"", b"x", b"\xff"])))
    elif kind == 2:
        image.tensors[at] = replace(tensor, name=other.name)
    elif kind == 3:
        image.tensors[at] = replace(tensor, offset=mutate.integer(dice, tensor.offset))
    elif kind == 4:
        image.tensors[at] = replace(tensor, offset=other.offset)
    elif kind == 5:
        image.tensors[at] = replace(tensor, n_dims=mutate.integer(dice, len(tensor.dims)))
    elif kind == 6:
        image.tensors[at] = replace(tensor, type=dice.randrange(40))
    elif kind == 7:
        image.tensors[at] = replace(tensor, dims=tensor.dims[::-1] + (1,) * dice.randrange(3))
    elif kind == 8:
        image.tensors[at] = replace(tensor, dims=other.dims)
    elif kind <= 10:
        _retype(dice, image, at)
    else:
        dims = list(tensor.dims)
        i = dice.randrange(len(dims))
        dims[i] = mutate.integer(dice, dims[i])
        image.tensors[at] = replace(tensor, dims=tuple(dims))


def _retype(dice: Random, image: Image, at: int) -> None:
    """A tensor in another format, at the end of the file, its blocks random bits."""
    tensor = image.tensors[at]
    type_id, layout = dice.choice(list(_LAYOUTS.items()))
    n_values = 1
    for dim in tensor.dims:
        n_values *= dim
    if not 0 < n_values < 1 << 20:
        return
    blocks = -(-n_values // layout.block_columns)
    image.data += bytes(-len(image.data) % 32)
    image.tensors[at] = replace(tensor, type=type_id, offset=len(image.data))
    image.data += dice.randbytes(blocks * layout.block_bytes)


def change_data(dice: Random, image: Any) -> None:
    """Changes image.data."""
    kind = dice.randrange(4)
    at = dice.randrange(len(image.data) + 1)
    if kind == 0:
        image.data = image.data[:at]
    elif kind == 1:
        image.data = image.data[:at] + b"\xff" * dice.choice([2, 64, 4096]) + image.data[at:]
    elif kind == 2:
        n_bytes = min(len(image.data) - at, dice.choice([4, 64, 4096]))
        filler = dice.choice([b"\xff", b"\x7f", b"\x7c", b"\0"]) * n_bytes
        image.data = image.data[:at] + filler + image.data[at + n_bytes :]
    else:
        image.data = b""


def _change_header(dice: Random, image: Image) -> None:
    kind = dice.randrange(4)
    if kind == 0:
        image.n_keys = mutate.integer(dice, len(image.keys)) % (1 << 64)
    elif kind == 1:
        image.n_tensors = mutate.integer(dice, len(image.tensors)) % (1 << 64)
    elif kind == 2:
        image.version = dice.choice([0, 1, 2, 4, 2 << 24, 3 << 24, 1 << 31])
    else:
        image.magic = dice.choice([b"", b"GGU", b"ggml", b"\0\0\0\0"])
