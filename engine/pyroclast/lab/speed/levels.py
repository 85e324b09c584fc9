"""What an instruction-set level gains over avx2: both in turn on the same inputs, A B A B.

A ratio is taken of each pair of neighbouring samples, so that a machine that slows down meanwhile
counts for both.  Caches are warm: from memory, every level waits for the same reads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.check.check import bind
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.lab.speed.timing import make_call
from pyroclast_kernels import features
from pyroclast_kernels.cases import Case, bench_cases
from pyroclast_kernels.program import Program, make_executor
from pyroclast_kernels.registry import CPP_LEVELS, PARTIAL_LEVELS, get_op

_AGAINST = "avx2"
_SAMPLE_S = 200e-6  # calls between two clock reads take at least this long together
_MIN_PAIRS = 7
OPS = tuple(dict.fromkeys(op for ops in PARTIAL_LEVELS.values() for op in ops))


def better_levels() -> tuple[list[str], dict[str, str]]:
    """(The levels above avx2 that run here, why the others do not), best first."""
    above = CPP_LEVELS[: CPP_LEVELS.index(_AGAINST)]
    reasons = {level: features.why_not(level) for level in above}
    return [level for level in above if not reasons[level]], {k: v for k, v in reasons.items() if v}


def cases_of(ops: Sequence[str], formats: Sequence[str], level: str) -> Iterator[Case]:
    """The cases worth timing whose op and format the level has; no formats: all of them."""
    for op in ops:
        variant = get_op(op).variants.get(f"cpp-{level}")
        for case in bench_cases(op):
            wanted = not formats or case.format in formats
            if wanted and variant is not None and case.format in variant.formats:
                yield case


def compare(case: Case, level: str, executor: Any, seconds: float) -> dict[str, Any]:
    """A row: medians of both in microseconds, and how many times as fast the level is."""
    programs = {}
    for name in (_AGAINST, level):
        call = make_call(bind(case.op, case.format, f"cpp-{name}"), case.make())
        once = min(_seconds(Program([call], executor)) for _ in range(3))
        n_calls = max(1, round(_SAMPLE_S / once))
        programs[name] = (Program([call] * n_calls, executor), n_calls)
    times: dict[str, list[float]] = {_AGAINST: [], level: []}
    end = time.perf_counter() + seconds
    while len(times[level]) < _MIN_PAIRS or time.perf_counter() < end:
        for name, (program, n_calls) in programs.items():
            times[name].append(_seconds(program) / n_calls * 1e6)
    ratios = [slow / fast for slow, fast in zip(times[_AGAINST], times[level], strict=True)]
    return {
        "op": case.op,
        "format": case.format,
        "case": case.name,
        "level": level,
        f"{_AGAINST}_us": statistics.median(times[_AGAINST]),
        "level_us": statistics.median(times[level]),
        "times_as_fast": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "n_pairs": len(ratios),
    }


def _seconds(program: Program) -> float:
    start = time.perf_counter()
    program.run()
    return time.perf_counter() - start


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", action="append", choices=OPS, help="default: all; repeat")
    parser.add_argument("--format", action="append", default=[], help="default: all; repeat")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a row (0.5)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    levels, absent = better_levels()
    for level, reason in absent.items():
        print(f"{level}: {reason}")
    if not levels:
        parser.exit(1, f"no level above {_AGAINST} runs here: there is nothing to compare\n")
    executor = make_executor(args.threads)
    rows = []
    for level in levels:
        for case in cases_of(args.op or OPS, args.format, level):
            row = compare(case, level, executor, args.seconds)
            rows.append(row)
            low, high = row["quartiles"]
            print(f"{level:<11} {case!s:<40} {row['times_as_fast']:.2f} ({low:.2f} to {high:.2f})")
    if args.json:
        header = {"made_with": environment(), "threads": args.threads, "absent": absent}
        write_result(args.json, {**header, "rows": rows})
