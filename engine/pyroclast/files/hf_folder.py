"""A Hugging Face model folder: config.json, and one safetensors file or many with an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyroclast.errors import ModelFileError, reason_of
from pyroclast.files.safetensors import SafetensorsFile
from pyroclast.files.small_file import CONFIG_BYTES, INDEX_BYTES, read_small_json


class HFFolder:
    """An open folder: its configs as plain objects, and its safetensors files; complete and
    missing_bytes as in `GGUFFile`."""

    def __init__(self, path: Path, *, complete: bool = True) -> None:
        self.path = path
        if not _is_there(path / "config.json"):
            raise ModelFileError(
                f"{path}: a folder with neither config.json nor a GGUF file; a model's folder has "
                "config.json, tokenizer.json and *.safetensors"
            )
        self.config = _read_json(path / "config.json", CONFIG_BYTES)
        generation = path / "generation_config.json"
        is_there = _is_there(generation)
        self.generation_config = _read_json(generation, CONFIG_BYTES) if is_there else {}
        self.files: list[SafetensorsFile] = []
        try:
            for name in _weight_files(path):
                self.files.append(SafetensorsFile(str(path / name), complete=complete))
            self._check_names()
            self.missing_bytes = sum(file.missing_bytes for file in self.files)
        except BaseException:
            self.close()
            raise

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for file in self.files:
            for name in file.tensors:
                if name in seen:
                    raise ModelFileError(
                        f"tensor {name!r} is in two files: {seen[name]} and {file.path}"
                    )
                seen[name] = file.path

    def close(self) -> None:
        """Close every file."""
        for file in self.files:
            file.close()


def _is_there(path: Path) -> bool:
    """Whether a folder has such an entry.  A link to nothing is one: reading it says what is
    wrong."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    try:
        return read_small_json(path, max_bytes)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: cannot be read: {reason_of(error)}") from error


def _weight_files(path: Path) -> list[str]:
    """The names of the weight files, from the index if there is one."""
    index = path / "model.safetensors.index.json"
    if not _is_there(index):
        if not _is_there(path / "model.safetensors"):
            others = sorted(file.name for file in path.glob("*.bin"))
            hint = f" ({others[0]} is a pickle, which can run code; convert it)" if others else ""
            raise ModelFileError(
                f"{path}: neither model.safetensors nor model.safetensors.index.json{hint}"
            )
        return ["model.safetensors"]
    weight_map = _read_json(index, INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: 'weight_map' must be an object with tensor names")
    for file in weight_map.values():
        # A plain name, so that an index cannot reach outside its folder.
        if not isinstance(file, str) or Path(file).name != file or "\0" in file:
            raise ModelFileError(f"{index}: {file!r} is not the name of a file in this folder")
    return sorted(set(weight_map.values()))
