"""Folders of the models in `tiny_families`, each written once for a test run, and what transformers
computes of them."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
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
        return self._written(name) / "folder"

    def model(self, name: str) -> str:
        """Of NAME or NAME@FORMAT: what to load, in that format."""
        name, at, format = name.partition("@")
        return f"{self(name)}{at}{format}"

    def logits(self, name: str) -> NDArray[np.float32]:
        """Of PROMPT: (N_PROMPT, vocab_size)."""
        logits: NDArray[np.float32] = np.load(self._written(name) / "logits.npy")
        return logits

    def answer(self, name: str) -> list[int]:
        """The N_ANSWER likeliest tokens behind PROMPT, one after the other."""
        answer: list[int] = json.loads((self._written(name) / "answer.json").read_text())
        return answer

    def _written(self, name: str) -> Path:
        path = self._root / name
        if not path.exists():
            self._root.mkdir(exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=self._root, prefix="new-"))
            model = tiny_families.write_folder(new / "folder", name)
            logits, answer = logits_and_answer(model)
            np.save(new / "logits.npy", logits)
            (new / "answer.json").write_text(json.dumps(answer))
            with suppress(OSError):  # another process was first: its files are the same
                new.rename(path)
        return path


def logits_and_answer(model: Any) -> tuple[NDArray[np.float32], list[int]]:
    """What a model of transformers computes of PROMPT, and its greedy answer."""
    import torch

    prompt = torch.tensor([PROMPT])
    with torch.no_grad():
        logits: NDArray[np.float32] = model(prompt).logits[0].numpy()
        answer = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),  # else padding's id is masked out
            max_new_tokens=N_ANSWER,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(PROMPT) :]
    return logits, answer.tolist()
