"""What Python costs in two checkouts, in turn (A B A B): a few steps of one, a few of the other.

Both stay loaded, each in a process of its own, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.speed import overhead_steps

HERE = Path(__file__).resolve().parents[4]
_N_STEPS, _N_LEFT_OUT = 10, 2  # of a turn; the first steps of a turn find another's caches
_N_TURNS = 20  # with one text


class Worker:
    """A process that runs the Pyroclast of the checkout in `folder`."""

    def __init__(self, folder: Path, model: str, n_threads: int | None) -> None:
        paths = [str(folder / part) for part in ("engine", "kernels")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", overhead_steps.__file__, model, str(n_threads or 0)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def ask(self, **order: Any) -> list[float]:
        """The times of the steps that it was told to run, if any."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        found: list[float] = json.loads(self._process.stdout.readline())
        return found


def measure(
    before: Worker,
    after: Worker,
    cases: dict[str, dict[str, Any]],
    batches: Sequence[int],
    n_turns: int,
) -> Iterator[dict[str, Any]]:
    """A row for each batch size and case; n_turns: of each checkout."""
    for n_batch in batches:
        for name, options in cases.items():
            times: dict[Worker, list[float]] = {before: [], after: []}
            ratios = []
            for turn in range(n_turns):
                if turn % _N_TURNS == 0:
                    _begin(times, options, n_batch)
                medians = {}
                for worker in (before, after) if turn % 2 == 0 else (after, before):
                    found = worker.ask(steps=_N_STEPS)[_N_LEFT_OUT:]
                    times[worker] += found
                    medians[worker] = statistics.median(found)
                ratios.append(medians[after] / medians[before])
            low, ratio, high = statistics.quantiles(ratios, n=4)
            yield {
                "test": f"overhead {name}",
                "n_batch": n_batch,
                "before": _spread(times[before]),
                "after": _spread(times[after]),
                "ratio": round(ratio, 3),
                "ratio_quartiles": [round(low, 3), round(high, 3)],
                "n": n_turns,
            }


def _begin(workers: dict[Worker, list[float]], options: dict[str, Any], n_batch: int) -> None:
    """Streams that are long enough for all turns."""
    max_tokens = _N_STEPS * (_N_TURNS + 1) + 2
    params = {"max_tokens": max_tokens, "ignore_eos": True, "seed": 1, **options}
    for worker in workers:
        worker.ask(open=params, n_batch=n_batch)
        worker.ask(steps=_N_STEPS)  # warm up


def _spread(times_us: list[float]) -> dict[str, Any]:
    low, median, high = statistics.quantiles(times_us, n=4)
    return {"median_us": round(median, 1), "quartiles_us": [round(low, 1), round(high, 1)]}


def compare(
    against: Path,
    model: str,
    n_threads: int | None,
    cases: dict[str, dict[str, Any]],
    batches: Sequence[int],
    n_turns: int,
) -> Iterator[dict[str, Any]]:
    """The rows of `measure`, the checkout in `against` being the one before."""
    before, after = (Worker(folder, model, n_threads) for folder in (against, HERE))
    try:
        yield from measure(before, after, cases, batches, n_turns)
    finally:
        before.close()
        after.close()
