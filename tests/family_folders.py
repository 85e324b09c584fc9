"""Folders of the models in `tiny_families`, each written once for a test run, and what transformers
computes of them."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiny_families
from tiny_families import N_ANSWER, PROMPT


class FamilyFolders:
    """Call it with a name: the model's folder, to be read and not to be changed.

    root: of this run, shared by its processes.  What has its final name there is whole.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> Path:
        path = self._root / name
        with self._alone(name):
            if not path.exists():
                self._write(name)
        return path / "folder"

    def model(self, name: str) -> str:
        """Of NAME or NAME@FORMAT: what to load, in that format."""
        name, at, format = name.partition("@")
        return f"{self(name)}{at}{format}"

    def logits(self, name: str) -> NDArray[np.float32]:
        """Of PROMPT: (N_PROMPT, vocab_size)."""
        logits: NDArray[np.float32] = np.load(self(name).with_name("logits.npy"))
        return logits

    def answer(self, name: str) -> list[int]:
        """The N_ANSWER likeliest tokens behind PROMPT, one after the other.  They take longer than
        the rest, which is done with them if it is not there."""
        path = self._root / name / "answer.json"
        with self._alone(name):
            if not path.exists():
                answer = answer_of(self._write(name))
                path.write_text(json.dumps(answer))
        found: list[int] = json.loads(path.read_text())
        return found

    def _write(self, name: str) -> Any:
        """Writes the folder and the logits, if they are not there; the model."""
        new = Path(tempfile.mkdtemp(dir=self._root, prefix="new-"))
        model = tiny_families.write_folder(new / "folder", name)
        if not (self._root / name).exists():
            np.save(new / "logits.npy", logits_of(model))
            new.rename(self._root / name)
        return model

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Other processes wait for what this one writes of the model."""
        self._root.mkdir(exist_ok=True)
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def logits_of(model: Any) -> NDArray[np.float32]:
    """What a model of transformers computes of PROMPT."""
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([PROMPT])).logits[0].numpy()
    return logits


def answer_of(model: Any) -> list[int]:
    """The greedy answer of a model of transformers to PROMPT."""
    import torch

    prompt = torch.tensor([PROMPT])
    with torch.no_grad():
        answer = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),  # else padding's id is masked out
            max_new_tokens=N_ANSWER,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(PROMPT) :]
    found: list[int] = answer.tolist()
    return found
