"""The curve of a run: loss by step, and the held-out perplexity where it was measured."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.train.disk import writing_to
from pyroclast.train.extra import needed
from pyroclast_kernels.whole_file import replacing

_SMOOTHED = 50  # points of the smoothed line, whatever the number of steps


def draw(path: Path, lines: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> None:
    """Writes an SVG of the lines of log.jsonl and of those of samples.jsonl with a perplexity."""
    needed("matplotlib").use("agg")
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    axes.plot(steps, losses, linewidth=0.6, alpha=0.4, label="loss of a batch")
    axes.plot(*smoothed(steps, losses), linewidth=1.6, label="loss, mean of its steps")
    held = [
        (each["step"], math.log(each["perplexity"])) for each in samples if "perplexity" in each
    ]
    if held:
        axes.plot(*zip(*held, strict=True), "o", label="held-out, by Pyroclast")
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy (nats a token)")
    axes.legend(frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as an SVG, the same bytes for the same figure; TrainingError where the disk
    is full."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    with writing_to(path), replacing(path) as file:
        file.write(picture.getvalue())


def smoothed(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """The mean step and mean loss of each of about 50 equal parts."""
    size = max(1, len(steps) // _SMOOTHED)
    parts = range(0, len(steps), size)
    return (
        [sum(steps[i : i + size]) / len(steps[i : i + size]) for i in parts],
        [sum(losses[i : i + size]) / len(losses[i : i + size]) for i in parts],
    )
