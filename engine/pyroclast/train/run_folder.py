"""The folder of a training run: its settings, its checkpoints and the final model.

    run.json        the recipe and its settings; the same command resumes, others are refused
    log.jsonl       a line for each step (`log.RunLog`)
    samples.jsonl   texts of some steps
    step-N/         the newest checkpoint; older ones are removed when it is whole
    final/          what the run was for

Folders appear whole or not at all: they are written under a hidden name, and renamed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError, reason_of
from pyroclast.train.disk import RESUMES, writing_to
from pyroclast_kernels.whole_file import write_text

_STEP = re.compile(r"step-(\d+)")
_SETTINGS = "run.json"
_FINAL = "final"
# What a run makes of its input before it begins.
_DERIVED = ("adapter", "base", "start", "tokenizer")


class RunFolder:
    """One run's folder, locked as long as this object is open; a context manager.

    settings: all that decides what is computed, ready for JSON.  A folder that holds a run with
    other settings, or files that are no run, is a TrainingError."""

    def __init__(self, path: str | Path, recipe: str, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        wanted = {"recipe": recipe, "settings": dict(settings)}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise TrainingError(f"{path}: cannot be the run's folder: {reason_of(error)}") from None
        try:
            self._lock()
            self._claim(wanted)
            self._sweep()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{self.path}: another process trains in this folder") from None

    def _claim(self, wanted: dict[str, Any]) -> None:
        """Writes run.json, or holds it against what is wanted."""
        file = self.path / _SETTINGS
        if not file.exists():
            others = sorted(each.name for each in self.path.iterdir())
            if others and not all(name.startswith(".") for name in others):
                raise TrainingError(
                    f"{self.path}: holds {others[0]!r} and no training run; give a new folder"
                )
            with writing_to(file, ""):
                write_text(file, json.dumps(wanted, indent=1) + "\n")
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            recipe, settings = found["recipe"], dict(found["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{file}: cannot be read: {error}; give a new folder") from error
        if recipe != wanted["recipe"]:
            raise TrainingError(
                f"{self.path}: holds a run of {recipe!r}, not of {wanted['recipe']!r}; give a new "
                "folder"
            )
        for name, value in wanted["settings"].items():
            if settings.get(name) != json.loads(json.dumps(value)):
                raise TrainingError(
                    f"{self.path}: holds a run with {name} {settings.get(name)!r}, not {value!r}; "
                    "give the same settings to resume it, or a new folder"
                )

    def _sweep(self) -> None:
        """Removes what a killed writer left behind."""
        for part in self.path.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    @property
    def final(self) -> Path:
        """Where the final model is, or will be."""
        return self.path / _FINAL

    @property
    def is_finished(self) -> bool:
        """Whether the final model was written."""
        return self.final.is_dir()

    def checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest checkpoint, or None."""
        found = [
            (int(name[1]), path)
            for path in self.path.iterdir()
            if (name := _STEP.fullmatch(path.name)) and path.is_dir()
        ]
        return max(found, default=None)

    def resume_hint(self) -> str:
        """What a user can do after an error or Ctrl-C."""
        found = self.checkpoint()
        whole = "nothing was lost but the first steps" if found is None else f"{found[1]} is whole"
        return f"{whole}; {RESUMES}"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A new folder to fill, which takes the place of `name` when the block ends.  Any exception
        leaves what was there; a full disk is a TrainingError."""
        target, token = self.path / name, secrets.token_hex(4)
        part, old = (self.path / f".{name}.{token}.{kind}.part" for kind in ("new", "old"))
        try:
            with writing_to(target, self.resume_hint()):
                part.mkdir()
                yield part
                _sync(part)
                if target.exists():
                    target.rename(old)
                part.rename(target)
                os.fsync(self._descriptor)
        finally:
            for each in (part, old):
                shutil.rmtree(each, ignore_errors=True)

    @contextmanager
    def writing_step(self, step: int) -> Iterator[Path]:
        """The same for the checkpoint of a step; older ones are removed afterwards."""
        with self.writing(f"step-{step}") as part:
            yield part
        self._remove_before(step)

    def take_step(self, step: int, found: Path) -> None:
        """The same of a folder that another library has filled, in this folder."""
        _sync(found)
        found.rename(self.path / f"step-{step}")
        self._remove_before(step)

    def _remove_before(self, step: int) -> None:
        for path in self.path.iterdir():
            found = _STEP.fullmatch(path.name)
            if found and int(found[1]) < step:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Unlocks the folder; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._unclaim()
        self.close()

    def _unclaim(self) -> None:
        """Leaves no settings behind where the run did not begin: what was refused may be asked for
        again with others."""
        made = [path for path in self.path.iterdir() if not path.name.startswith(".")]
        if {path.name for path in made} <= {_SETTINGS, *_DERIVED}:
            for path in made:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Has the files of a folder reach the disk before its name does, readable as the folder is:
    safetensors makes files for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if path.is_file():
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
