"""Checks and times variants on cases, and makes rows of the results: `pyroclast bench kernels`.

Kernels run in a child process, one for each number of threads; if a kernel kills it, another is
started.  All variants of a case run one after the other, so that they meet the same state of the
machine and share one reference result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from pyroclast.errors import KernelError
from pyroclast.lab.speed import gpu, kept_ceilings
from pyroclast.lab.speed.child import Child, ChildError
from pyroclast.lab.speed.make_rows import KernelJob, rows_of, with_roofline
from pyroclast.lab.speed.rows import BLAS, MeasuredCeiling, Results, Row, with_drift, with_ratios
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast_kernels import tables
from pyroclast_kernels.cases import Case, bench_cases, op_cases
from pyroclast_kernels.registry import OP_NAMES, get_op
from pyroclast_kernels.selection import Selection, all_variants

_CEILINGS_S = 300.0


@dataclass(frozen=True)
class Settings:
    """What to measure.  Names may be shell patterns; None means all."""

    ops: Sequence[str] | None = None
    formats: Sequence[str] | None = None
    variants: Sequence[str] | None = None
    cases: Sequence[str] | None = None
    threads: Sequence[int] = (1,)
    seconds: float = 0.15  # per timing
    timeout_s: float = 300.0  # per variant and case, compilation included
    every_case: bool = False  # also the small and awkward ones
    keeps_ceilings: bool = False  # takes those of an earlier run, where there are any


def plan(settings: Settings) -> list[KernelJob]:
    """All jobs: by number of threads, then by case.  A kernel on a GPU uses no threads, so it is
    measured once.  KernelError lists the known names if one matches nothing."""
    ops = _chosen("op", settings.ops, OP_NAMES)
    known = dict.fromkeys(format for op in ops for format in get_op(op).formats)
    formats = _chosen("format", settings.formats, list(known))
    of_op = {op: all_variants(op) for op in ops}
    names = dict.fromkeys([*(name for op in ops for name in of_op[op]), BLAS])
    variants = _chosen("variant", settings.variants, list(names))
    cases = [case for op in ops for case in _cases(op, settings) if case.format in formats]
    chosen = set(_chosen("case", settings.cases, list(dict.fromkeys(c.name for c in cases))))
    return [
        KernelJob(case, variant, n_threads)
        for n_threads in settings.threads
        for case in cases
        if case.name in chosen
        for variant in variants
        if variant in of_op[case.op] or (variant == BLAS and _takes_blas(case))
        if n_threads == settings.threads[0] or gpu.launched(case.op, variant) is None
    ]


def _on_gpu(jobs: Sequence[KernelJob]) -> bool:
    return gpu.timed((job.case.op, job.variant) for job in jobs)


def _cases(op: str, settings: Settings) -> list[Case]:
    cases = bench_cases(op)
    if settings.every_case:
        known = {(case.format, case.name) for case in cases}
        cases += [case for case in op_cases(op) if (case.format, case.name) not in known]
    return cases


def _takes_blas(case: Case) -> bool:
    return case.op == "matmul" and case in bench_cases("matmul")


def _chosen(what: str, wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    if wanted is None:
        return list(known)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise KernelError(f"no {what} matches {pattern!r}; there are {', '.join(known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in wanted)]


class Run:
    """Measures the jobs of a plan.  `results` is complete when `measure` is exhausted."""

    def __init__(self, settings: Settings, jobs: Sequence[KernelJob]) -> None:
        self.settings, self.jobs = settings, jobs
        self._rows: list[Row] = []
        self._ceilings: list[MeasuredCeiling] = []

    def measure(self, on_done: Callable[[int], None] = lambda _: None) -> Iterator[list[Row]]:
        """Yields the rows of each case when its variants are done.  on_done(n): n jobs are done."""
        n_done = 0
        for n_threads in self.settings.threads:
            jobs = [job for job in self.jobs if job.n_threads == n_threads]
            kept, done = self._kept(n_threads), len(self._rows)
            with Child(n_threads) as child:
                ceilings = kept or self._measured(child, jobs)
                rows: list[Row] = []
                for job in jobs:
                    if rows and rows[-1].key[:3] != (job.case.op, job.case.format, job.case.name):
                        yield self._close(rows, ceilings)
                        rows = []
                    rows += self._job(child, job)
                    n_done += 1
                    on_done(n_done)
                yield self._close(rows, ceilings)
                again = [] if self.settings.keeps_ceilings else self._measured(child, jobs)
                self._finish(done, [*ceilings, *again])

    def measures_ceilings(self) -> bool:
        """Whether it will take the time to measure the machine's ceilings."""
        return not all(map(self._kept, self.settings.threads))

    def _kept(self, n_threads: int) -> list[MeasuredCeiling]:
        """Ceilings of an earlier run, if they will do."""
        jobs = [job for job in self.jobs if job.n_threads == n_threads]
        if not self.settings.keeps_ceilings or _on_gpu(jobs):
            return []
        return kept_ceilings.known(n_threads, {job.case.bytes for job in jobs})

    def results(self) -> Results:
        """All rows so far, with the machine and the settings."""
        made = {
            "table": Selection("").table,
            "cpu_fingerprint": tables.fingerprint(),
            "machine": tables.machine(),
            **environment(),
        }
        return Results(tuple(self._rows), tuple(self._ceilings), made, asdict(self.settings))

    def _job(self, child: Child, job: KernelJob) -> list[Row]:
        why = job.why_unsupported
        if why:
            return rows_of(job, "unsupported", why, {})
        try:
            answer = self._ask(child, job)
        except ChildError as error:
            return rows_of(job, error.kind, str(error), {})
        if answer["errors"]:
            child.stop()  # it may have damaged more than its output
            return rows_of(job, "wrong", f"{job.case}: " + "; ".join(answer["errors"]), answer)
        if "times" not in answer:
            return rows_of(job, "checked", gpu.NOT_TIMED, answer)
        return rows_of(job, "ok", "", answer)

    def _ask(self, child: Child, job: KernelJob) -> Any:
        """The child's answer.  A crash counts only if it happens again in a fresh process: another
        kernel may have damaged the memory before."""
        what = {"op": job.case.op, "format": job.case.format, "name": job.case.name}
        question: dict[str, Any] = {"do": "measure", **what, "variant": job.variant}
        question["seconds"] = self.settings.seconds
        try:
            return child.ask(question, self.settings.timeout_s)
        except ChildError as error:
            child.stop()
            if error.kind == "hung":
                raise
        try:
            return child.ask(question, self.settings.timeout_s)
        except ChildError:
            child.stop()
            raise

    @staticmethod
    def _measured(child: Child, jobs: Sequence[KernelJob]) -> list[MeasuredCeiling]:
        """The machine's ceilings; [] with a warning if they cannot be measured.  Rows then have no
        shares."""
        sizes, on_gpu = sorted({job.case.bytes for job in jobs}), _on_gpu(jobs)
        try:
            question = {"do": "ceilings", "sizes": sizes, "on_gpu": on_gpu}
            answer = child.ask(question, _CEILINGS_S)
        except ChildError as error:
            warnings.warn(f"no ceilings of this machine: {error}", RuntimeWarning, stacklevel=2)
            return []
        found = [MeasuredCeiling(**ceiling) for ceiling in answer]
        if not on_gpu:
            kept_ceilings.keep(found)
        return found

    def _close(self, rows: list[Row], ceilings: list[MeasuredCeiling]) -> list[Row]:
        """The rows of one case, compared with the ceilings and with NumPy."""
        done = with_ratios([with_roofline(row, ceilings) for row in rows])
        self._rows += done
        return done

    def _finish(self, first: int, ceilings: list[MeasuredCeiling]) -> None:
        """Completes the rows from `first` on: shares of the best ceilings, drift from the best
        anchor."""
        best: dict[tuple[str, int], MeasuredCeiling] = {}
        for ceiling in sorted(ceilings, key=lambda ceiling: ceiling.value):
            best[ceiling.kind, ceiling.n_bytes] = ceiling
        self._ceilings += best.values()
        ceilings = list(best.values())
        self._rows[first:] = with_drift([with_roofline(r, ceilings) for r in self._rows[first:]])
