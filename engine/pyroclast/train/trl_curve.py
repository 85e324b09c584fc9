"""The curves of a run of one of trl's trainers: each figure of its log by step."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroclast.train.curve import save, smoothed
from pyroclast.train.extra import needed


def draw_figures(path: Path, lines: Sequence[dict[str, Any]], titles: Mapping[str, str]) -> None:
    """Writes an SVG with a panel for each name in titles that the lines have."""
    needed("matplotlib").use("agg")
    names = [name for name in titles if lines and name in lines[0]]
    size = (7, 2.2 * len(names))
    figure = importlib.import_module("matplotlib.figure").Figure(size, layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        steps, values = ([line[key] for line in lines] for key in ("step", name))
        axes.plot(steps, values, linewidth=0.6, alpha=0.4)
        axes.plot(*smoothed(steps, values), linewidth=1.6)
        axes.set_ylabel(titles[name])
    axes.set_xlabel("step")
    save(figure, path)
