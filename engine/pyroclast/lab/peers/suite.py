"""A fixed list of comparisons within a time limit: what bench/results/ shows of a machine.

Each part is a module of this package, run as a process of its own.  Its result is kept in the cache
directory, so a part that was done at this commit is not done again.  The whole file is written
after each part.  A part that is not expected to end in time is left out, and the file says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.lab.peers.files import cache_directory
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.table import PEERS
from pyroclast.lab.speed.process import isolated, python_command, python_path
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.progress import off_the_line, progress_bar
from pyroclast_kernels.whole_file import write_text

PACKAGE = "pyroclast.lab.peers"  # where the modules of the parts are
DEMO, DUMMY = "smollm2-135m-instruct", "dummy:llama-3.2-1b"
TABLES = "iq4_nl,iq4_xs,iq3_s,mxfp4"  # formats with tables that kernels compute as they are
_MAX_LAST_WORDS = 300
DIRTY = "-dirty"  # the name of a changed checkout, whose results are not kept


@dataclass(frozen=True)
class Part:
    """A module with its arguments.  minutes: what it takes on a quiet machine with two cores, not
    counting the making of files, and engines with a time_share of their own."""

    name: str
    module: str
    arguments: str
    minutes: float

    def minutes_with(self, peers: Iterable[str]) -> float:
        """What it takes with these engines."""
        if self.module != "comparison":
            return self.minutes
        return self.minutes * (1 + sum(PEERS[name].time_share for name in peers))


CPU = (
    Part("1B Q4_0", "comparison", f"--model {DUMMY} --format q4_0 -p 512 -n 128 -r 3", 4),
    Part("1B Q8_0", "comparison", f"--model {DUMMY} --format q8_0 -p 512 -n 128 -r 3", 5),
    Part("135M", "comparison", f"--model {DEMO} --format q8_0,q4_0,q4_k_m -p 512 -n 128 -r 5", 4),
    Part("1B Q4_K_M", "comparison", f"--model {DUMMY} --format q4_k_m -p 512 -n 128 -r 3", 4),
    Part("135M depth", "comparison", f"--model {DEMO} --format q4_0 -p 512 -n 64 -d 4096 -r 3", 4),
    Part("1B batches", "comparison", f"--model {DUMMY} --format q4_0 -p 0 -n 32 -b 1,8 -r 3", 3),
    Part("135M batches", "comparison", f"--model {DEMO} --format q4_0 -p 0 -n 64 -b 1,16 -r 3", 2),
    Part("fidelity", "fidelity", f"--model {DEMO}", 4),
    Part("1B BF16", "comparison", f"--model {DUMMY} --format bf16 -p 512 -n 16 -r 3", 3),
    Part("neighbour 135M", "neighbour", f"--model {DEMO} --format q4_0 -n 64 -r 5", 1),
    Part("neighbour 1B", "neighbour", f"--model {DUMMY} --format q4_0 -n 16 -r 3", 1),
    Part("load", "load", f"--model {DUMMY} --format q8_0 -r 5", 1),
)
IQ = (
    Part("Gemma 3 270M", "comparison", "--model gemma-3-270m -p 512 -n 128 -r 5", 2),
    Part("135M IQ", "comparison", f"--model {DEMO} --format {TABLES} -p 512 -n 128 -r 5", 6),
    Part("1B IQ", "comparison", f"--model {DUMMY} --format {TABLES} -p 512 -n 64 -r 3", 14),
)
# The smallest values, for a run that only shows that everything works.
_SMALL = {"-p": "32", "-n": "4", "-d": "64", "-r": "1"}


def small(part: Part) -> Part:
    """The part in its smallest size: it ends soon, and its figures mean nothing."""
    words = part.arguments.split()
    for i, flag in enumerate(words[:-1]):
        if flag in _SMALL and words[i + 1] != "0":
            words[i + 1] = _SMALL[flag]
    if part.module == "fidelity":
        words += ["--format", "q8_0,q4_0", "--texts", "1", "--tokens", "32"]
    return Part(part.name, part.module, " ".join(words), minutes=1)


SUITES = {"cpu": CPU, "iq": IQ, "dry": tuple(small(part) for part in (*CPU, *IQ))}


@dataclass(frozen=True)
class SuiteOptions:
    """peers: the value of --peers, None without it.  only: names of parts, () for all."""

    name: str
    minutes: float = 40
    fresh: bool = False
    only: tuple[str, ...] = ()
    peers: str | None = None
    json: Path | None = None
    markdown: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> SuiteOptions:
        """What the flags say."""
        only = tuple(name.strip() for name in args.only.split(",") if name.strip())
        where = {"peers": args.peers, "json": args.json, "markdown": args.markdown}
        return cls(args.suite, args.minutes, args.fresh, only, **where)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags about suites."""
    parser.add_argument("--suite", choices=SUITES, help="run a list of comparisons instead")
    parser.add_argument("--minutes", type=float, default=40, help="limit for the whole suite")
    parser.add_argument("--fresh", action="store_true", help="also run parts that are done")
    parser.add_argument("--only", default="", metavar="PART,...", help="parts of the suite")


def run(options: CompareOptions, suite: SuiteOptions) -> int:
    """Runs the parts that are not done yet; the exit code is 1 if a part failed."""
    known = [part.name for part in SUITES[suite.name]]
    if unknown := [name for name in suite.only if name not in known]:
        print(f"no part {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    parts = [part for part in SUITES[suite.name] if not suite.only or part.name in suite.only]
    deadline = time.monotonic() + 60 * suite.minutes
    records: dict[str, dict[str, Any]] = {}
    with progress_bar(len(parts), "part") as show:
        for number, part in enumerate(parts, 1):
            job = _Job(options, suite, part)
            record = job.known() or job.run(deadline)
            records[part.name] = record
            with off_the_line():
                print(f"{part.name}: {_state(record)}", file=sys.stderr)
            show(number)
            _write(options, suite, records)
    print(_markdown(suite, records))
    return int(any("failed" in record for record in records.values()))


class _Job:
    """One part of a suite, and the file that keeps its result."""

    def __init__(self, options: CompareOptions, suite: SuiteOptions, part: Part) -> None:
        self._part, self._suite = part, suite
        self._minutes = part.minutes_with(options.peers)
        self._command = _command(options, suite, part)
        key = hashlib.sha256(" ".join(self._command).encode()).hexdigest()[:8]
        directory = cache_directory(options.cache) / "parts"
        directory.mkdir(exist_ok=True)
        self._kept = directory / f"{part.name.replace(' ', '_')}.{key}.json"

    def known(self) -> dict[str, Any] | None:
        """The part's result, if it was done at this commit and may be used."""
        if self._suite.fresh or not self._kept.exists():
            return None
        record: dict[str, Any] = json.loads(self._kept.read_text())
        commit = environment()["commit"]
        return record if record["commit"] == commit and not commit.endswith(DIRTY) else None

    def run(self, deadline: float) -> dict[str, Any]:
        """The part's result, or why there is none."""
        left, part = (deadline - time.monotonic()) / 60, self._part
        if self._minutes > left:
            return {"left_out": f"{self._minutes:g} minutes expected, {left:.1f} left"}
        out, start = self._kept.with_suffix(".out"), time.monotonic()
        try:
            done = subprocess.run(
                python_command(*self._command, "--json", str(out)),
                env=isolated(python_path()),
                stdout=subprocess.PIPE,
                text=True,
                timeout=60 * left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"left_out": f"not done after {left:.1f} minutes"}
        if done.returncode:
            return {"failed": f"exit code {done.returncode}: {done.stdout[-_MAX_LAST_WORDS:]}"}
        record = {
            "arguments": part.arguments,
            "commit": environment()["commit"],
            "minutes": round((time.monotonic() - start) / 60, 2),
            "result": json.loads(out.read_text()),
            "markdown": done.stdout.strip(),
        }
        out.unlink()
        write_text(self._kept, json.dumps(record))
        return record


def _command(options: CompareOptions, suite: SuiteOptions, part: Part) -> list[str]:
    """The part's own arguments, and those of the suite that every part takes."""
    words = ["-m", f"{PACKAGE}.{part.module}", *part.arguments.split()]
    if suite.peers is not None:
        words += ["--peers", suite.peers]
    for name, python in options.peers.items() if suite.peers is None else ():
        words += ["--peer", f"{name}={python}"]
    if options.cache is not None:
        words += ["--cache", str(options.cache)]
    return [*words, "--threads", str(options.threads)]


def _state(record: dict[str, Any]) -> str:
    for reason in ("left_out", "failed"):
        if reason in record:
            return f"{reason.replace('_', ' ')}: {record[reason]}"
    return f"done in {record['minutes']} minutes"


def _write(
    options: CompareOptions, suite: SuiteOptions, records: dict[str, dict[str, Any]]
) -> None:
    """All parts so far, as JSON and as Markdown, where files for these were asked for."""
    made_with = {**environment(), "system": platform.platform(), "n_threads": options.threads}
    parts = {
        name: {key: value for key, value in record.items() if key != "markdown"}
        for name, record in records.items()
    }
    if suite.json:
        write_result(suite.json, {"made_with": {**made_with, "suite": suite.name}, "parts": parts})
    if suite.markdown:
        suite.markdown.parent.mkdir(parents=True, exist_ok=True)
        write_text(suite.markdown, _markdown(suite, records) + "\n")


def _markdown(suite: SuiteOptions, records: dict[str, dict[str, Any]]) -> str:
    """The table of each part, or why there is none."""
    about = environment()
    lines = [f"# Suite {suite.name}, commit {about['commit']}, {about['cpu']}"]
    for name, record in records.items():
        lines += ["", f"## {name}", "", record.get("markdown", f"{_state(record)}.")]
    return "\n".join(lines)
