"""The key-value part of a GGUF file: a bounds-checked cursor, scalar values, lazy arrays.

Arrays are traversed to check their bounds, but decoded only on request.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pyroclast.errors import ModelFileError
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.native import strings

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS = {
    type_id: struct.Struct("<" + code)
    for type_id, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"
    }.items()
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
MAX_NAME_BYTES = 65535  # the format's own limit
_WINDOW_BYTES = 1 << 18  # what is read at once while stepping through the header
_MAX_ARRAY_DEPTH = 4  # no published file nests arrays; the bound keeps recursion finite


class Cursor:
    """A position in the file that only moves forward, and never past the end."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.size = file.size
        self.position = 0
        self._window, self._window_start = b"", 0

    def error(self, message: str) -> ModelFileError:
        """An error to raise, with the file's path in front."""
        return ModelFileError(f"{self.file.path}: {message}")

    def take(self, n_bytes: int, what: str) -> int:
        """Steps over n_bytes and returns where they start."""
        start = self.position
        if n_bytes > self.size - start:
            raise self.error(
                f"{what} needs {n_bytes} bytes at offset {start}, but the file ends at {self.size}"
                " (a download that was cut short?)"
            )
        self.position = start + n_bytes
        return start

    def unpack(self, layout: struct.Struct, what: str) -> Any:
        """The one value that layout describes."""
        start = self.take(layout.size, what)
        return layout.unpack_from(*self.window(start, layout.size))[0]

    def raw(self, n_bytes: int, what: str) -> bytes:
        """The next n_bytes."""
        window, index = self.window(self.take(n_bytes, what), n_bytes)
        return window[index : index + n_bytes]

    def window(self, start: int, n_bytes: int, n_ahead: int = _WINDOW_BYTES) -> tuple[bytes, int]:
        """A piece of the file with the n_bytes from start on, which exist, and where in it they
        are.  What is read from the file has n_ahead bytes at least, as far as there are so many."""
        index = start - self._window_start
        if index < 0 or index + n_bytes > len(self._window):
            size = min(max(n_bytes, n_ahead), self.size - start)
            self._window = self.file.read(start, size, "the header")
            self._window_start, index = start, 0
        return self._window, index

    def string(self, what: str, max_bytes: int | None = None) -> str:
        """A length and that many bytes of UTF-8."""
        length = self.unpack(U64, f"length of {what}")
        if max_bytes is not None and length > max_bytes:
            raise self.error(f"{what} claims {length} bytes; the format allows {max_bytes}")
        start = self.position
        try:
            return self.raw(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} at offset {start} is not valid UTF-8: {error}") from error

    def count(self, what: str, min_item_bytes: int) -> int:
        """A count of items, checked: each takes at least min_item_bytes of the remaining file."""
        count: int = self.unpack(U64, what)
        if count > (self.size - self.position) // min_item_bytes:
            raise self.error(f"{what} is {count}, more than a file of {self.size} bytes can hold")
        return count


@dataclass(frozen=True)
class _Array:
    """An array that has been bounds-checked but not decoded: its items fill start..end."""

    item_type: int
    count: int
    start: int
    end: int


class Metadata(Mapping[str, Any]):
    """The file's key-value pairs as Python values.

    Arrays are decoded again at each look-up (a second copy of a vocabulary would cost tens of MB),
    so bind them once.  `length` returns an array's length without decoding it.
    """

    def __init__(
        self,
        values: dict[str, Any],
        file: ModelFile | None = None,
        spans: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        self._values = values
        self._file = file
        self._spans = spans

    def raw(self, key: str) -> bytes:
        """The value as the file has it: its type's number, and its bytes."""
        assert self._file is not None, "a value that came from no file has no bytes"
        start, end = self._spans[key]
        return self._file.read(start, end - start, repr(key))

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Array):
            assert self._file is not None, "only files have arrays that wait to be decoded"
            return _decode_array(self._file, key, value)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def length(self, key: str) -> int | None:
        """How many items the array under key has; None if there is no array under key."""
        value = self._values.get(key)
        return value.count if isinstance(value, _Array) else None


def read_metadata(cursor: Cursor, n_keys: int) -> Metadata:
    """Read n_keys pairs at the cursor; arrays are only walked."""
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for index in range(n_keys):
        key = cursor.string(f"metadata key {index}", MAX_NAME_BYTES)
        if not key or key in values:
            raise cursor.error(f"metadata key {index} is {'a repeated' if key else 'an empty'} "
                               f"name: {key!r}")  # fmt: skip
        start = cursor.position
        values[key] = _read_value(cursor, key)
        spans[key] = start, cursor.position
    return Metadata(values, cursor.file, spans)


def _read_value(cursor: Cursor, key: str) -> Any:
    value_type = cursor.unpack(U32, f"type of {key!r}")
    if value_type == _ARRAY:
        return _walk_array(cursor, key, depth=1)
    if value_type == _STRING:
        return cursor.string(f"value of {key!r}")
    if value_type not in _SCALARS:
        raise cursor.error(f"{key!r} has value type {value_type}; known types: 0 to 12")
    value = cursor.unpack(_SCALARS[value_type], f"value of {key!r}")
    if value_type == _BOOL:
        if value > 1:
            raise cursor.error(f"{key!r} is a boolean and must be 0 or 1, got {value}")
        return bool(value)
    return value


def _walk_array(cursor: Cursor, key: str, depth: int) -> _Array:
    """Steps over an array and checks everything that decoding relies on."""
    what = f"array {key!r}"
    item_type = cursor.unpack(U32, f"item type of {what}")
    if item_type in _SCALARS:
        item_bytes = _SCALARS[item_type].size
        count = cursor.count(f"length of {what}", item_bytes)
        start = cursor.take(count * item_bytes, what)
    elif item_type == _STRING:
        count = cursor.count(f"length of {what}", 8)
        start = cursor.position
        _walk_strings(cursor, count, what)
    elif item_type == _ARRAY:
        if depth == _MAX_ARRAY_DEPTH:
            raise cursor.error(f"{what} is nested deeper than {_MAX_ARRAY_DEPTH} levels")
        count = cursor.count(f"length of {what}", 12)
        start = cursor.position
        for _ in range(count):
            _walk_array(cursor, key, depth + 1)
    else:
        raise cursor.error(f"{what} has item type {item_type}; known types: 0 to 12")
    return _Array(item_type, count, start, cursor.position)


def _walk_strings(cursor: Cursor, count: int, what: str) -> None:
    """Steps over strings in a tight loop: Llama 3 has 408,000 of them.

    A false length moves the position past the end, where the next read fails.
    """
    position, n_left, unpack = cursor.position, count, U64.unpack_from
    n_ahead = _WINDOW_BYTES
    while n_left and position <= cursor.size - 8:
        window, start = cursor.window(position, 8, n_ahead)
        n_whole, index = strings.step_over(window, start, n_left)
        n_done = n_whole
        try:
            for n_done in range(n_whole, n_left):  # noqa: B007 - counts up to the exception
                index += 8 + unpack(window, index)[0]
            n_done = n_left
        except (struct.error, OverflowError):  # the next string begins beyond this window
            pass
        position += index - start
        n_left -= n_done
        # After a string longer than a window the next may be as long: only its length is read.
        n_ahead = 8 if index - start > _WINDOW_BYTES else _WINDOW_BYTES
    if n_left or position > cursor.size:
        raise cursor.error(f"{what}: its strings run past the file's end at {cursor.size}")
    cursor.position = position


def _decode_array(file: ModelFile, key: str, array: _Array) -> list[Any]:
    data = file.read(array.start, array.end - array.start, repr(key))
    if array.item_type == _STRING:
        return _decode_strings(data, array.count, f"{file.path}: {key!r}")
    if array.item_type == _ARRAY:
        cursor = Cursor(file)
        cursor.position = array.start
        items = [_walk_array(cursor, key, depth=1) for _ in range(array.count)]
        return [_decode_array(file, key, item) for item in items]
    values = list(struct.unpack(f"<{array.count}{_SCALARS[array.item_type].format[1:]}", data))
    return [bool(value) for value in values] if array.item_type == _BOOL else values


def _decode_strings(data: bytes, count: int, what: str) -> list[str]:
    if (decoded := strings.decode(data, count)) is not None:
        return decoded
    found: list[str] = []  # or what is wrong, with its place
    position, unpack = 0, U64.unpack_from
    try:
        for _ in range(count):
            start = position + 8
            position = start + unpack(data, position)[0]
            found.append(data[start:position].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{what}: item {len(found)} is not valid UTF-8: {error}") from error
    except (struct.error, OverflowError):
        position = -1
    if position != len(data):  # the lengths were right when the file was opened
        raise ModelFileError(f"{what}: the file was changed while it was open; load it again")
    return found
