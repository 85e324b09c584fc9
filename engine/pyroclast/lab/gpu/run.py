"""Builds, tests and measures on a machine with a GPU, within a time limit.

What is measured, in which order, and the targets: `pyroclast.lab.gpu.parts`.  A part that fails, or
does not end in time, becomes a row with the reason.  The file is written again after every task.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyroclast.lab.gpu.checks import build, tests
from pyroclast.lab.gpu.parts import Task, tasks
from pyroclast.lab.gpu.pool import Worker, WorkerError
from pyroclast.lab.gpu.sizes import Sizes
from pyroclast.lab.gpu.table import compared, held
from pyroclast.lab.peers.client import WORKERS
from pyroclast.lab.speed.process import python_command, python_path
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment

_RESERVE_S = 12.0  # for the table, and for processes to end
_LEAST_S = 4.0  # a task with less time is not begun
_BUILD_S, _TESTS_S = 150.0, 80.0
_QUICK = {"build": 100.0, "tests": 30.0}
_WORDS = 300  # characters of an error
_MAKING = ("load", "prepare")  # requests that must come before a process measures
PARTS = ("build", "ceilings", "tests")  # beside those of the tasks


@dataclass(frozen=True)
class GpuOptions:
    """checkout: the folder to build and to test.  only: the parts to run, () for all.  arguments:
    the command's own, for the record."""

    checkout: Path
    out: Path
    minutes: float = 9.5
    only: tuple[str, ...] = ()
    quick: bool = False
    dry_run: bool = False
    arguments: Sequence[str] = ()


class Bench:
    """One run of the benchmark: its rows so far, its worker processes, its clock."""

    def __init__(self, options: GpuOptions, sizes: Sizes) -> None:
        self._options, self._sizes = options, sizes
        self._end = time.monotonic() + 60 * options.minutes - _RESERVE_S
        self._workers: dict[str, Worker] = {}
        self._broken: dict[str, str] = {}  # worker -> why it cannot load
        self._posted: list[Task] = []
        self._rows: list[dict[str, Any]] = []
        self._parts: dict[str, dict[str, Any]] = {}
        self._ceilings: dict[str, float] = {}
        self._made: dict[str, Any] = {
            **environment(),
            "system": platform.platform(),
            "arguments": list(options.arguments),
            "dry_run": options.dry_run,
        }

    # ---- the run -------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Does everything that was asked for, and returns the result as it is written."""
        wanted = [task for task in tasks(self._sizes) if self._is_wanted(task)]
        try:
            if self._has("build"):
                self._timed("build", self._build)
            ahead = [task for task in wanted if task.ahead]
            ceilings, rest = wanted[:1], [task for task in wanted[1:] if not task.ahead]
            for task in ceilings:
                self._timed(task.part, partial(self._do, task))
            self._post(ahead)
            if self._has("tests"):
                self._timed("tests", self._tests)
            todo = [*ahead, *rest]
            for i, task in enumerate(todo):
                self._timed(task.part, partial(self._do, task))
                if all(other.worker != task.worker for other in todo[i + 1 :]):
                    self._worker(task.worker).stop()  # its memory is free for others
        finally:
            for worker in self._workers.values():
                worker.stop()
        return self._result()

    def _has(self, part: str) -> bool:
        return not self._options.only or part in self._options.only

    def _is_wanted(self, task: Task) -> bool:
        if task.part == "ceilings":  # all shares need them
            return True
        return self._has(task.part) and (task.quick or not self._options.quick)

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _timed(self, part: str, work: Callable[[], str]) -> None:
        """Does some work, notes its time and state in its part, and writes the file."""
        known = self._parts.setdefault(part, {"state": "done", "seconds": 0.0})
        begin = time.monotonic()
        reason = work()
        known["seconds"] = round(known["seconds"] + time.monotonic() - begin, 2)
        if reason:
            known |= {"state": "incomplete", "reason": known.get("reason", reason)}
        self._write()

    # ---- tasks ---------------------------------------------------------------------------------

    def _post(self, ahead: list[Task]) -> None:
        """Posts the tasks that take long and measure nothing, to be waited for later."""
        for task in ahead if self._left() > _LEAST_S else ():
            self._worker(task.worker).post(task.do, **task.arguments)
            self._posted.append(task)

    def _do(self, task: Task) -> str:
        """Adds the rows of a task; returns why it has none, or empty."""
        try:
            self._ask(task)
        except WorkerError as error:
            reason = str(error)[:_WORDS]
        else:
            return ""
        self._add(task, [{"value": None, "reason": reason}])
        return f"{task.test}: {reason}"

    def _ask(self, task: Task) -> None:
        if task.worker in self._broken:
            raise WorkerError(self._broken[task.worker])
        end = time.monotonic() + min(task.limit_s, self._left())
        while True:
            left = end - time.monotonic()
            if left < (_LEAST_S if not task.repeats else 0.5):
                if task.repeats and self._left() > _LEAST_S:
                    return  # its time is over
                raise WorkerError(f"left out: {self._left():.0f} s were left")
            answer = self._answer(task, left)
            if task.do == "measure":
                self._note_ceilings(answer, task)
                return
            self._add(task, answer)
            if not (task.repeats and answer):
                return

    def _answer(self, task: Task, limit_s: float) -> Any:
        """The worker's answer.  A worker whose device failed cannot go on, and is ended.  A model
        that could not be loaded is not tried again."""
        worker = self._worker(task.worker)
        try:
            if task in self._posted:
                return worker.wait(limit_s)
            if task.do not in _MAKING and not worker.running:
                self._reload(task, limit_s)
            return worker.ask(task.do, limit_s, **task.arguments)
        except WorkerError as error:
            making = task.do in _MAKING
            if making:
                self._broken[task.worker] = str(error)[:_WORDS]
            if making or not error.alive or "CUDA" in str(error):
                worker.stop()
                self._posted = [each for each in self._posted if each.worker != task.worker]
            raise

    def _reload(self, task: Task, limit_s: float) -> None:
        """Loads again what was lost when the worker ended."""
        for each in tasks(self._sizes):
            if each.worker == task.worker and each.do in _MAKING:
                self._worker(task.worker).ask(each.do, limit_s, **each.arguments)

    def _worker(self, name: str) -> Worker:
        if name not in self._workers:
            role = name.partition(" ")[0]
            script = ["-m", "pyroclast.lab.gpu.worker", role]
            if role == "transformers":
                script = [str(WORKERS / "transformers_gpu.py")]
            path = self._environment()
            path["PYTHONPATH"] += f"{os.pathsep}{WORKERS}"  # the script imports its neighbours
            self._workers[name] = Worker(python_command(*script), path)
        return self._workers[name]

    def _environment(self) -> dict[str, str]:
        # Several workers compile at once; each would start a process for every CPU.
        frozen = {"PYROCLAST_FROZEN": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        return {**python_path(), **frozen}

    def _add(self, task: Task, answer: list[dict[str, Any]]) -> None:
        for row in answer:
            whole = {"part": task.part, "test": task.test, **row}
            self._rows.append(held(whole, task.share_of, self._ceilings, task.target))
            print(_line(self._rows[-1]), file=sys.stderr)

    def _note_ceilings(self, answer: list[dict[str, Any]], task: Task) -> None:
        for ceiling in answer:
            self._ceilings[ceiling["kind"]] = ceiling["value"]
            self._add(task, [{"test": f"ceiling: {ceiling['kind']}", **ceiling}])
        self._made["gpu"] = self._worker(task.worker).ask("about", 30)
        self._worker(task.worker).stop()

    # ---- build and tests -----------------------------------------------------------------------

    def _build(self) -> str:
        if self._options.dry_run:
            return "left out: a dry run builds nothing"
        limit_s = min(_QUICK["build"] if self._options.quick else _BUILD_S, self._left())
        reason, self._made["build_output"] = build(
            self._options.checkout, self._environment(), limit_s
        )
        return reason

    def _tests(self) -> str:
        limit_s = min(_QUICK["tests"] if self._options.quick else _TESTS_S, self._left())
        if limit_s < _LEAST_S:
            return f"left out: {limit_s:.0f} s were left"
        where = self._sizes.tests
        row = tests(self._options.checkout, where, self._environment(), limit_s)
        self._rows.append(row)
        return str(row["reason"])

    # ---- the file ------------------------------------------------------------------------------

    def _result(self) -> dict[str, Any]:
        rows = [*self._rows, *compared(self._rows, self._sizes.most)]
        return {"made_with": self._made, "parts": self._parts, "rows": rows}

    def _write(self) -> None:
        write_result(self._options.out, self._result())


def _line(row: dict[str, Any]) -> str:
    """A line of progress."""
    if row["value"] is None:
        return f"{row['test']}: {row.get('reason', 'nothing')[:120]}"
    share = f", {row['share']:.0%} of {row['share_of']}" if row.get("share") else ""
    return f"{row['test']}: {row['value']:.5g} {row.get('unit', '')}{share}"
