"""The child process that runs kernels which may crash.  Jobs and answers are JSON lines.

    python -m pyroclast.lab.speed.worker N_THREADS

Answers go to the original standard output; what a kernel prints goes to standard error.  An answer
is {"done": ...} or {"failed": message}.  {"at": case} lines before it say what is being tried, so
the parent knows which case the process died of.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from pyroclast.lab.check.check import check_case
from pyroclast.lab.speed import gpu
from pyroclast.lab.speed.measure import KernelBench
from pyroclast_kernels.cases import op_cases
from pyroclast_kernels.selection import all_variants


class Worker:
    """Answers jobs.  The bench is made for the first job that needs it."""

    def __init__(self, n_threads: int, out: TextIO) -> None:
        self._n_threads, self._out = n_threads, out
        self._bench: KernelBench | None = None
        self._jobs: dict[str, Callable[..., Any]] = {
            "measure": self._measure,
            "ceilings": self._ceilings,
            "check": self._check,
        }

    def answer(self, job: dict[str, Any]) -> None:
        """Runs one job.  An exception becomes its answer."""
        try:
            done = self._jobs[job.pop("do")](**job)
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything; the row says what
            traceback.print_exc()
            self._write({"failed": f"{type(error).__name__}: {error}"})
        else:
            self._write({"done": done})

    def _write(self, answer: dict[str, Any]) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def _ready(self) -> KernelBench:
        if self._bench is None:
            self._bench = KernelBench(self._n_threads)
        return self._bench

    def _measure(self, **what: Any) -> dict[str, Any]:
        return self._ready().measure(**what)

    def _ceilings(self, sizes: list[int], on_gpu: bool = False) -> list[dict[str, Any]]:
        found = self._ready().machine.measure(sizes)
        return [asdict(ceiling) for ceiling in [*found, *(gpu.ceilings() if on_gpu else ())]]

    def _check(self, op: str, variant: str, pattern: str | None) -> dict[str, Any]:
        """Checks every case of the op in the variant's formats; failures are in words."""
        formats = all_variants(op)[variant].formats
        cases = [c for c in op_cases(op) if c.format in formats]
        cases = [c for c in cases if pattern is None or pattern in str(c)]
        failures: list[str] = []
        for case in cases:
            self._write({"at": f"{case}"})
            failures += map(str, check_case(case, variant))
        return {"n_cases": len(cases), "failures": failures}


def main() -> None:
    """Answers jobs until standard input ends."""
    faulthandler.enable()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker(int(sys.argv[1]), out)
    for line in sys.stdin:
        worker.answer(json.loads(line))


if __name__ == "__main__":
    main()
