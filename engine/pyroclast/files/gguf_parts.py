"""A GGUF model: one file, or parts named <name>-00001-of-0000N.gguf, of which any may be given.

Parts are hostile input too: numbers, counts and tensors must agree with the names and with each
other, or a ModelFileError names the part and the key.  The first part has the metadata.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyroclast.errors import ModelFileError
from pyroclast.files.gguf import GGUFFile, GGUFTensorInfo
from pyroclast.files.gguf_metadata import Metadata

_PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NO, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


class GGUFModel:
    """The open files of one model, in order; metadata is the first one's.  complete: as of
    GGUFFile."""

    def __init__(self, path: Path, *, complete: bool = True) -> None:
        self.files: list[GGUFFile] = []
        try:
            for part in part_paths(path):
                self.files.append(GGUFFile(part, complete=complete))
            # A file that was merged from parts says 0, or 1.
            if len(self.files) > 1 or self.metadata.get(_COUNT, 1) not in (0, 1):
                self._check_parts()
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Metadata:
        return self.files[0].metadata

    @property
    def n_bytes(self) -> int:
        """The sizes of all files together."""
        return sum(file.file.size for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """What the tensors have beyond the ends of their files."""
        return sum(file.missing_bytes for file in self.files)

    @property
    def tensors(self) -> list[tuple[GGUFFile, GGUFTensorInfo]]:
        """Every tensor, with the file that has it."""
        return [(file, info) for file in self.files for info in file.tensors.values()]

    def close(self) -> None:
        """Close every file."""
        for file in self.files:
            file.close()

    def _check_parts(self) -> None:
        n_tensors, seen = len(self.tensors), dict[str, str]()
        for number, file in enumerate(self.files):
            _check(file, _NO, number, "counted from 0 the name says")
            _check(file, _COUNT, len(self.files), "the number of parts by the name is")
            _check(file, _TENSORS, n_tensors, "the number of tensors in all parts is")
            for key in ("general.architecture", "general.name"):
                # Only the first part needs them.
                if key in file.metadata and file.metadata[key] != self.metadata.get(key):
                    raise ModelFileError(
                        f"{file.path}: {key} is {file.metadata[key]!r}, but in the first part "
                        f"{self.metadata.get(key)!r}: parts of two models?"
                    )
            for name in file.tensors:
                if name in seen:
                    raise ModelFileError(f"tensor {name!r} is in two parts: {seen[name]} and "
                                         f"{file.path}")  # fmt: skip
                seen[name] = file.path


def part_paths(path: Path) -> list[Path]:
    """The parts that belong to a file, by its name, in order; the file alone if it is no part."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelFileError(f"{path}: its name says part {number} of {count}")
    paths: list[Path] = []
    for i in range(1, count + 1):
        paths.append(path.with_name(f"{match['name']}-{i:05}-of-{count:05}.gguf"))
        if not paths[-1].exists():  # at once: a name may promise 99,999 parts
            raise ModelFileError(
                f"{path}: part {i} of {count} is missing: {paths[-1].name}; all parts must be in "
                "one folder"
            )
    return paths


def first_part(path: Path) -> Path:
    """The part that has the metadata; the others may be missing."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return path
    return path.with_name(f"{match['name']}-00001-of-{match['count']}.gguf")


def gguf_in_folder(folder: Path) -> Path | None:
    """The model of a folder without config.json: its only GGUF file, or the first of its parts."""
    if (folder / "config.json").exists():
        return None
    first = [
        path
        for path in sorted(folder.glob("*.gguf"))
        if (match := _PART.fullmatch(path.name)) is None or int(match["number"]) == 1
    ]
    if len(first) > 1:
        names = ", ".join(path.name for path in first[:6])
        raise ModelFileError(f"{folder}: has {len(first)} GGUF models ({names}); name one of them")
    return first[0] if first else next(iter(sorted(folder.glob("*.gguf"))), None)


def model_name(path: Path) -> str:
    """A file's name without its ending, and without its part."""
    match = _PART.fullmatch(path.name)
    return path.stem if match is None else match["name"]


def _check(file: GGUFFile, key: str, expected: int, says: str) -> None:
    found = file.metadata.get(key)
    if found != expected or isinstance(found, bool):
        raise ModelFileError(
            f"{file.path}: {key} is {found!r}, but {says} {expected}: a part of another model, or "
            "renamed?"
        )
