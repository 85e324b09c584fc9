"""Builds, tests and measures on a machine with a GPU, in ten minutes: see bench/gpu.sh.

    bench/gpu.sh                               all, to bench/results/gpu_local.json
    bench/gpu.sh --quick --minutes 4           the largest model and the kernels that have targets
    bench/gpu.sh --only "8B BF16,kernels"      these parts, the ceilings, and no others
    bench/gpu.sh --dry-run                     tiny shapes in Triton's interpreter: does it all run?

What is measured, in which order, and what is aimed at: bench/gpu_parts.py.  Whatever fails, or
does not end in its time, is a row with the reason; the file is written anew after every step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
SOURCES = [str(ROOT / folder) for folder in ("engine", "kernels")]
sys.path[:0] = SOURCES

from gpu_checks import build, tests  # noqa: E402
from gpu_parts import Step, steps  # noqa: E402
from gpu_pool import Worker, WorkerError  # noqa: E402
from gpu_sizes import FULL, SMALL, Sizes, know_tiny_shape  # noqa: E402
from gpu_table import compared, held, table  # noqa: E402
from pyroclast.lab.speed.throughput_rows import environment  # noqa: E402

_RESERVE_S = 12.0  # for the table, and for processes to end
_LEAST_S = 4.0  # a step that has less is not begun
_BUILD_S, _TESTS_S = 150.0, 80.0
_QUICK = {"build": 100.0, "tests": 30.0}
_WORDS = 300  # of an error
_MAKING = ("load", "prepare")  # what a process must have done before it measures
PARTS = ("build", "ceilings", "tests")  # beside those of the steps


class Bench:
    """One run: its rows so far, its processes, its clock."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes) -> None:
        self._args, self._sizes = args, sizes
        self._end = time.monotonic() + 60 * args.minutes - _RESERVE_S
        self._workers: dict[str, Worker] = {}
        self._broken: dict[str, str] = {}  # worker -> why it cannot be had
        self._posted: list[Step] = []
        self._rows: list[dict[str, Any]] = []
        self._parts: dict[str, dict[str, Any]] = {}
        self._ceilings: dict[str, float] = {}
        self._made: dict[str, Any] = {
            **environment(),
            "system": platform.platform(),
            "arguments": sys.argv[1:],
            "dry_run": args.dry_run,
        }

    # ---- the run -------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Everything that was asked for; the result as it is written."""
        wanted = [step for step in steps(self._sizes) if self._is_wanted(step)]
        try:
            if self._has("build"):
                self._timed("build", self._build)
            ahead = [step for step in wanted if step.ahead]
            ceilings, rest = wanted[:1], [step for step in wanted[1:] if not step.ahead]
            for step in ceilings:
                self._timed(step.part, lambda step=step: self._do(step))
            self._post(ahead)
            if self._has("tests"):
                self._timed("tests", self._tests)
            todo = [*ahead, *rest]
            for i, step in enumerate(todo):
                self._timed(step.part, lambda step=step: self._do(step))
                if all(other.worker != step.worker for other in todo[i + 1 :]):
                    self._worker(step.worker).stop()  # its memory is free for others
        finally:
            for worker in self._workers.values():
                worker.stop()
        return self._result()

    def _has(self, part: str) -> bool:
        return not self._args.only or part in self._args.only

    def _is_wanted(self, step: Step) -> bool:
        if step.part == "ceilings":  # what all shares are of
            return True
        return self._has(step.part) and (step.quick or not self._args.quick)

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _timed(self, part: str, work: Any) -> None:
        """Does a step; its time and state go to its part, and all so far to the file."""
        known = self._parts.setdefault(part, {"state": "done", "seconds": 0.0})
        begin = time.monotonic()
        reason = work()
        known["seconds"] = round(known["seconds"] + time.monotonic() - begin, 2)
        if reason:
            known |= {"state": "incomplete", "reason": known.get("reason", reason)}
        self._write()

    # ---- steps ---------------------------------------------------------------------------------

    def _post(self, ahead: list[Step]) -> None:
        """Asks for what takes long and measures nothing, to be waited for later."""
        for step in ahead if self._left() > _LEAST_S else ():
            self._worker(step.worker).post(step.do, **step.arguments)
            self._posted.append(step)

    def _do(self, step: Step) -> str:
        """The rows of a step; why it has none, or empty."""
        try:
            self._ask(step)
        except WorkerError as error:
            reason = str(error)[:_WORDS]
        else:
            return ""
        self._add(step, [{"value": None, "reason": reason}])
        return f"{step.test}: {reason}"

    def _ask(self, step: Step) -> None:
        if step.worker in self._broken:
            raise WorkerError(self._broken[step.worker])
        end = time.monotonic() + min(step.limit_s, self._left())
        while True:
            left = end - time.monotonic()
            if left < (_LEAST_S if not step.repeats else 0.5):
                if step.repeats and self._left() > _LEAST_S:
                    return  # it had its time
                raise WorkerError(f"left out: {self._left():.0f} s were left")
            answer = self._answer(step, left)
            if step.do == "measure":
                self._note_ceilings(answer, step)
                return
            self._add(step, answer)
            if not (step.repeats and answer):
                return

    def _answer(self, step: Step, limit_s: float) -> Any:
        """What the process says.  One whose device failed can do nothing more: it is ended.  A
        model that could not be loaded is not tried again."""
        worker = self._worker(step.worker)
        try:
            if step in self._posted:
                return worker.wait(limit_s)
            if step.do not in _MAKING and not worker.running:
                self._reload(step, limit_s)
            return worker.ask(step.do, limit_s, **step.arguments)
        except WorkerError as error:
            making = step.do in _MAKING
            if making:
                self._broken[step.worker] = str(error)[:_WORDS]
            if making or not error.alive or "CUDA" in str(error):
                worker.stop()
                self._posted = [each for each in self._posted if each.worker != step.worker]
            raise

    def _reload(self, step: Step, limit_s: float) -> None:
        """Loads again what an earlier step's end took with it."""
        for each in steps(self._sizes):
            if each.worker == step.worker and each.do in _MAKING:
                self._worker(step.worker).ask(each.do, limit_s, **each.arguments)

    def _worker(self, name: str) -> Worker:
        if name not in self._workers:
            role = name.partition(" ")[0]
            script = [str(BENCH / "gpu_worker.py"), role]
            if role == "transformers":
                script = [str(BENCH / "peers" / "transformers_gpu.py")]
            self._workers[name] = Worker([sys.executable, *script], self._environment())
        return self._workers[name]

    def _environment(self) -> dict[str, str]:
        given = os.environ.get("PYTHONPATH", "")
        found = {"PYTHONPATH": os.pathsep.join(filter(None, [*SOURCES, given]))}
        # Several compile side by side, each of which would start a process for every CPU.
        return {**found, "PYROCLAST_FROZEN": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}

    def _add(self, step: Step, answer: list[dict[str, Any]]) -> None:
        for row in answer:
            whole = {"part": step.part, "test": step.test, **row}
            self._rows.append(held(whole, step.share_of, self._ceilings, step.target))
            print(_line(self._rows[-1]), file=sys.stderr)

    def _note_ceilings(self, answer: list[dict[str, Any]], step: Step) -> None:
        for ceiling in answer:
            self._ceilings[ceiling["kind"]] = ceiling["value"]
            self._add(step, [{"test": f"ceiling: {ceiling['kind']}", **ceiling}])
        self._made["gpu"] = self._worker(step.worker).ask("about", 30)
        self._worker(step.worker).stop()

    # ---- build and tests -----------------------------------------------------------------------

    def _build(self) -> str:
        if self._args.dry_run:
            return "left out: a dry run builds nothing"
        limit_s = min(_QUICK["build"] if self._args.quick else _BUILD_S, self._left())
        reason, self._made["build_output"] = build(self._environment(), limit_s)
        return reason

    def _tests(self) -> str:
        limit_s = min(_QUICK["tests"] if self._args.quick else _TESTS_S, self._left())
        if limit_s < _LEAST_S:
            return f"left out: {limit_s:.0f} s were left"
        row = tests(self._sizes.tests, self._environment(), limit_s)
        self._rows.append(row)
        return str(row["reason"])

    # ---- the file ------------------------------------------------------------------------------

    def _result(self) -> dict[str, Any]:
        rows = [*self._rows, *compared(self._rows, self._sizes.most)]
        return {"made_with": self._made, "parts": self._parts, "rows": rows}

    def _write(self) -> None:
        write(self._args.out, self._result())


def write(path: Path, result: dict[str, Any]) -> None:
    """The file in whole, or as it was."""
    text = json.dumps(result, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)


def _line(row: dict[str, Any]) -> str:
    """For whoever watches."""
    if row["value"] is None:
        return f"{row['test']}: {row.get('reason', 'nothing')[:120]}"
    share = f", {row['share']:.0%} of {row['share_of']}" if row.get("share") else ""
    return f"{row['test']}: {row['value']:.5g} {row.get('unit', '')}{share}"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="that all may take (9.5)")
    parser.add_argument("--only", default="", metavar="PART,...", help="these parts, and ceilings")
    default = BENCH / "results" / "gpu_local.json"
    parser.add_argument("--out", type=Path, default=default, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="what has a target, and little else")
    parser.add_argument("--dry-run", action="store_true", help="tiny, in Triton's interpreter")
    args = parser.parse_args(words)
    if not 0 < args.minutes < 1e4:
        parser.error(f"--minutes must be more than 0, got {args.minutes:g}")
    known = dict.fromkeys([*PARTS, *(step.part for step in steps(FULL))])
    args.only = [part.strip() for part in args.only.split(",") if part.strip()]
    for part in args.only:
        if part not in known:
            parser.error(f"no part {part!r}; there are: {', '.join(known)}")
    return args


def main() -> None:
    args = parse()
    sizes = FULL
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
        know_tiny_shape()
        sizes = SMALL
    result = Bench(args, replace(sizes)).run()
    print(table(result))
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
