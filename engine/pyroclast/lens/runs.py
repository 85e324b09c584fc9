"""Training in a picture: what a run of `pyroclast train` wrote, and how P(next) moved with it.

A run is a folder with log.jsonl, a line {"step": ..., "loss": ..., ...} for each step.  It may have
samples.jsonl, lines {"step": ..., "text": ...}, and checkpoints: Hugging Face folders step-N.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import RequestError, reason_of
from pyroclast.lens.choice import best, entropy_of, logits_after
from pyroclast.lens.text import some_ids_of, text_of
from pyroclast.llm import LLM
from pyroclast_kernels.sample.reference import log_softmax

LOG, SAMPLES = "log.jsonl", "samples.jsonl"
MAX_POINTS, MAX_SAMPLES, MAX_CHECKPOINTS = 5000, 200, 12
_MAX_LOG_BYTES = 64 << 20
_N_TOKENS = 10
_CHECKPOINT = re.compile(r"step-(\d{1,12})")


@dataclass(frozen=True, slots=True)
class Training:
    """steps int64 (n,) and loss float64 (n,): the run's curve, thinned out to MAX_POINTS.  speed
    float64 (n,): tokens per second, NaN where the log has none.  samples: (step, text).
    checkpoints: the steps that have one."""

    steps: NDArray[np.int64]
    loss: NDArray[np.float64]
    speed: NDArray[np.float64]
    samples: tuple[tuple[int, str], ...]
    checkpoints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Learning:
    """P(next | one context) at some checkpoints.  tokens: (id, text) of those that the last one
    finds most likely.  p float64 (n_steps, n_tokens), entropy float64 (n_steps,) in nats."""

    steps: tuple[int, ...]
    tokens: tuple[tuple[int, str], ...]
    p: NDArray[np.float64]
    entropy: NDArray[np.float64]


def training_runs(folder: str | Path) -> dict[str, Path]:
    """The runs in a folder by name, or the folder itself if it is one."""
    folder = Path(folder)
    places = [folder] if (folder / LOG).is_file() else sorted(folder.glob("*/"))
    return {path.resolve().name: path for path in places if (path / LOG).is_file()}


def training(run: str | Path) -> Training:
    """The curve, samples and checkpoints of a run, which may still be going on."""
    run = Path(run)
    rows = [row for row in _lines(run / LOG) if _is_number(row.get("loss"))]
    rows = [rows[i] for i in _spread(len(rows), MAX_POINTS)]
    samples = list(_lines(run / SAMPLES)) if (run / SAMPLES).is_file() else []
    samples = [samples[i] for i in _spread(len(samples), MAX_SAMPLES)]
    speeds = [row.get("tokens_per_s") for row in rows]
    return Training(
        steps=np.array([row["step"] for row in rows], np.int64),
        loss=np.array([row["loss"] for row in rows], np.float64),
        speed=np.array([s if _is_number(s) else math.nan for s in speeds], np.float64),
        samples=tuple((row["step"], str(row.get("text", ""))) for row in samples),
        checkpoints=tuple(sorted(_checkpoints(run))),
    )


def learning(run: str | Path, text: str, *, n_steps: int = MAX_CHECKPOINTS) -> Learning:
    """How the distribution after a text changed with training: loads at most n_steps checkpoints of
    the run, from the first to the last, one after the other."""
    if not 1 <= n_steps <= MAX_CHECKPOINTS:
        raise RequestError(f"n_steps must be 1 to {MAX_CHECKPOINTS}, got {n_steps}")
    places = _checkpoints(Path(run))
    if not places:
        raise RequestError(f"the run {Path(run).name!r:.80} has no checkpoints step-N")
    steps = [sorted(places)[i] for i in _spread(len(places), n_steps)]
    found, tokens = [], []
    for step in steps:
        with LLM(places[step], max_seqs=1, speculation="off", prefix_cache=False) as llm:
            logits = logits_after(llm, some_ids_of(llm, text))
            if step == steps[-1]:
                ids = best(logits, _N_TOKENS).tolist()
                tokens = [(i, text_of(llm.tokenizer, i)) for i in ids]
        found.append(log_softmax(logits))
    if len({len(each) for each in found}) > 1:
        raise RequestError("the checkpoints of this run have vocabularies of different sizes")
    p = np.exp(np.stack(found)[:, [i for i, _ in tokens]])
    return Learning(tuple(steps), tuple(tokens), p, np.array([entropy_of(x) for x in found]))


def _checkpoints(run: Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint."""
    matches = ((path, _CHECKPOINT.fullmatch(path.name)) for path in run.glob("step-*/"))
    return {int(m[1]): path for path, m in matches if m and (path / "config.json").is_file()}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a step in a file of lines; a line that is being written is left out."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LOG_BYTES)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {reason_of(error)}") from error
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**62:
            yield row


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to n - 1, evenly, the first and the last among them."""
    if n <= most:
        return list(range(n))
    if most == 1:
        return [n - 1]
    return [i * (n - 1) // (most - 1) for i in range(most)]
