"""Runs kinds of torture in child processes, so that whatever one does to its process is a finding.

A kind is a name and `run(seed, deadline, record)`.  It runs in a forked child, in a process group
and a folder of its own, until time.monotonic() passes `deadline`; its cases follow from `seed`
alone.  It wraps each case in `with record.case(payload):` (see record.py).  A finding is

- an exception within a case that is no PyroclastError, or any exception outside one;
- what the kind reports with `record.finding(...)`;
- a signal or an exit code that ends the child;
- a case that takes more than `case_seconds` of CPU time, or waits six times as long;
- a child that is not done two minutes after its deadline;
- memory: the address space may grow by `memory_bytes`, and a MemoryError is an exception.

The campaign goes on after each, with the next seed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torture.record import EnoughError, Finding, Record

SLICE_SECONDS = 20.0  # of one child; short enough that a leak of one does not hide the next
_POLL_SECONDS = 0.02
_CLOCK_FACTOR = 6  # a machine with other work gives a process a share of its clock
_MAX_DUMP_SECONDS = 10.0
_MAX_LATE_SECONDS = 120.0  # of a child between cases; getting ready takes some kinds long as well
_MAX_IDLE_CHILDREN = 3  # that ended without one case: the kind itself is broken


@dataclass(frozen=True)
class Kind:
    """One kind of torture; `replay` runs the case of one payload (None: found again by seed).

    memory_bytes None sets no limit; weight is its share of the campaign's time."""

    name: str
    run: Callable[[int, float, Record], None]
    replay: Callable[[bytes], None] | None = None
    case_seconds: float = 10.0
    memory_bytes: int | None = 1 << 30
    weight: float = 1.0


@dataclass
class Outcome:
    """What one kind came to: `findings` holds each fault once."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.cases += other.cases
        self.refused += other.refused
        self.seconds += other.seconds
        known = {finding.signature for finding in self.findings}
        self.findings += [f for f in other.findings if f.signature not in known]


def torture(
    kind: Kind, seed: int, seconds: float, tick: Callable[[Outcome], None] | None = None
) -> Outcome:
    """Runs one kind for so many seconds; child after child, one at least, each with its own seed.
    tick: called with the outcome after each child."""
    total, n_idle, end = Outcome(), 0, time.monotonic() + seconds
    while True:
        outcome = run_child(kind, seed, min(end, time.monotonic() + SLICE_SECONDS))
        n_idle = 0 if outcome.cases else n_idle + 1
        total.add(outcome)
        seed += 1
        if tick is not None:
            tick(total)
        if time.monotonic() >= end or n_idle >= _MAX_IDLE_CHILDREN:
            return total


def replay(finding: Finding, kind: Kind) -> Outcome:
    """Runs the case of a finding again, by its input or else by its seed."""
    again = kind.replay
    if again is None:
        return run_child(kind, finding.seed, time.monotonic() + 3600, stop_after=finding.case)

    def run(seed: int, deadline: float, record: Record) -> None:
        with record.case(finding.payload):
            again(finding.payload)

    one = Kind(kind.name, run, None, kind.case_seconds, kind.memory_bytes)
    return run_child(one, finding.seed, time.monotonic())


def run_child(kind: Kind, seed: int, deadline: float, stop_after: int | None = None) -> Outcome:
    """Forks a child that runs the kind, watches it, and collects what it leaves."""
    folder, begin = Path(tempfile.mkdtemp(prefix="torture-", dir=_temporary())), time.monotonic()
    record = Record(kind.name, seed, folder / "findings", stop_after)
    (folder / "work").mkdir()
    try:
        with warnings.catch_warnings():
            # Python warns of threads in the parent; the child uses nothing of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _child(kind, record, deadline, folder)
        what = _watch(kind, record, pid, deadline, folder / "dump")
        found = record.findings()
        if what:
            printed, dump = _left_in(folder / "printed"), _left_in(folder / "dump")
            found.append(record.died(what, printed[-4000:] + dump[:4000]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(*record.counts(), time.monotonic() - begin, found)


def _left_in(path: Path) -> str:
    """What a child wrote to a file, which it may not have made before it died."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _temporary() -> str | None:
    """Memory, where there is a folder of it: the cases write small files all the time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _child(kind: Kind, record: Record, deadline: float, folder: Path) -> None:
    """The whole life of a child; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ["RUST_BACKTRACE"] = "0"  # a panic that is caught says where it was all the same
        os.dup2(os.open(folder / "printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        with (folder / "dump").open("w", encoding="utf-8") as dump:
            faulthandler.enable(dump)
            faulthandler.register(signal.SIGUSR1, dump)
            os.chdir(folder / "work")
            tempfile.tempdir = str(folder / "work")
            _limit_memory(kind.memory_bytes)
            try:
                kind.run(record.seed, deadline, record)
            except EnoughError:
                pass
            except BaseException as error:  # noqa: BLE001 - the child must end here
                record.finding(f"the kind itself failed: {error!r}", traceback.format_exc())
        code = 0
    finally:
        os._exit(code)


def _limit_memory(n_bytes: int | None) -> None:
    if n_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(kind: Kind, record: Record, pid: int, deadline: float, dump: Path) -> str:
    """Waits for the child, and kills one that hangs; what was wrong with its end, or "".  A child
    that hangs writes where to the file `dump`."""
    what, polled, lost = "", time.monotonic(), 0.0
    try:
        while not what:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return _ending(os.waitstatus_to_exitcode(status))
            now, before = time.monotonic(), polled
            polled = now
            lost += max(0.0, now - before - 1)  # the machine stood still, for the child as well
            what = _overtime(kind, record, pid, now - lost, deadline)
            time.sleep(_POLL_SECONDS)
        os.kill(pid, signal.SIGUSR1)
        end = time.monotonic() + _MAX_DUMP_SECONDS
        while not _left_in(dump) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        time.sleep(0.2)  # for the rest of it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with all its children
    os.waitpid(pid, 0)
    return what


def _ending(code: int) -> str:
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}" if code else ""


def _overtime(kind: Kind, record: Record, pid: int, now: float, deadline: float) -> str:
    """What is said of a case that takes too long, or of a child that does not end; else ""."""
    case, wall, cpu = record.running()
    if not case:
        late = now - max(deadline, wall)
        is_late = late > _MAX_LATE_SECONDS
        return f"it did not end {_MAX_LATE_SECONDS:g} s after its deadline" if is_late else ""
    used = _cpu_seconds(pid) - cpu
    if used > kind.case_seconds:
        return f"a case took more than {kind.case_seconds:g} s of CPU time"
    if now - wall > _CLOCK_FACTOR * kind.case_seconds and not _wants_cpu(pid):
        return f"a case took more than {_CLOCK_FACTOR * kind.case_seconds:g} s"
    return ""


def _wants_cpu(pid: int) -> bool:
    """Whether a process would run if the machine let it; else it waits for something."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:  # it has just ended
        return True
    return stat.rpartition(")")[2].split()[0] == "R"


def _cpu_seconds(pid: int) -> float:
    """CPU time of another process, all its threads."""
    clock = (~pid << 3) | 2  # what clock_getcpuclockid() computes
    try:
        return time.clock_gettime(clock)
    except OSError:  # it has just ended
        return 0.0


def show(message: str) -> None:
    """One line of the campaign's own."""
    sys.stdout.write(message + "\n")
    sys.stdout.flush()
