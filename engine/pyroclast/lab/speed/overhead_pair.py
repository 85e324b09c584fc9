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
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from pyroclast.lab.speed import overhead_steps

HERE = Path(__file__).resolve().parents[4]
_N_STEPS, _N_LEFT_OUT = 10, 2  # of a turn; the first steps of a turn find another's caches
_N_TURNS = 20  # with one text


class WorkerError(Exception):
    """A checkout that cannot be measured, or a process that died."""


class Worker:
    """A process that runs the Pyroclast of the checkout in `folder`.  WorkerError if that holds
    none.  has_executor: its native executor was built."""

    def __init__(self, folder: Path, model: str, n_threads: int | None) -> None:
        self._folder = folder.resolve()
        paths = [str(self._folder / part) for part in ("engine", "kernels")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", overhead_steps.__file__, model, str(n_threads or 0)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.has_executor = self._check_origin()
            self._answer()  # it is loaded
        except BaseException:
            self._process.kill()  # else it would load the model before it sees that nobody asks
            self.close()
            raise

    def ask(self, **order: Any) -> list[float]:
        """The times of the steps that it was told to run, if any."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: there is no answer either
        found: list[float] = self._answer()
        return found

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _check_origin(self) -> bool:
        # Python passes over folders that do not exist, and imports what is installed instead.
        found = self._answer()
        for file in found["files"]:
            if Path(file).resolve().parents[2] != self._folder:
                raise WorkerError(
                    f"{self._folder} is no checkout of Pyroclast: {file} was imported instead; "
                    "name the folder that holds engine/ and kernels/"
                )
        return bool(found["has_executor"])

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerError(
                f"the process of {self._folder} ended with the exit code {self._process.wait()}; "
                "what it said is above"
            )
        return json.loads(line)


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
    # The first stream gets a token whenever another one begins.
    max_tokens = _N_STEPS * (_N_TURNS + 1) + 2 + n_batch
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
    with ExitStack() as stack:
        before, after = (
            stack.enter_context(closing(Worker(folder, model, n_threads)))
            for folder in (against, HERE)
        )
        if before.has_executor != after.has_executor:
            bare = HERE if before.has_executor else against
            raise WorkerError(f"{bare} lacks the native executor; build it there: make native")
        yield from measure(before, after, cases, batches, n_turns)
