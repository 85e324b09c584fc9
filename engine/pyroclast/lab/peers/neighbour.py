"""Decode speed with a busy neighbour, as a share of the undisturbed speed.

The neighbour is a loop pinned to one of the cores.  Each repetition runs every engine alone and
disturbed, one engine after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyroclast.lab.peers.arena import Arena, Contender
from pyroclast.lab.peers.arguments import make_parser, one_format, read_options, told_in_a_line
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.store import Store
from pyroclast.lab.speed.result_file import without_samples, write_result
from pyroclast.lab.speed.throughput import Workload
from pyroclast.lab.speed.throughput_rows import environment, quartiles, spread
from pyroclast.progress import progress_bar

_LOOP = "while True: pass"
TARGET = 0.4  # share of the undisturbed speed


@contextmanager
def busy_loop(core: int) -> Iterator[None]:
    """A process that keeps one core busy until the block ends."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _LOOP])
    try:
        os.sched_setaffinity(process.pid, {core})
        yield
    finally:
        process.kill()
        process.wait()


def run(
    options: CompareOptions, format: str | None, n_gen: int, show: Callable[[int], None]
) -> dict[str, Any]:
    """A row for each engine and setting."""
    workload = Workload(0, n_gen)
    core = max(os.sched_getaffinity(0))
    arena, store = Arena(options, [workload]), Store(options)
    model = store.ours(format)
    times: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    with ExitStack() as stack:
        contenders = [arena.ours(stack, model)]
        contenders += arena.theirs(stack, lambda peer: store.theirs(peer, format), Path(model).name)
        contenders = [each for each in contenders if each.applies(workload)]
        for each in contenders:
            each.warm_up(workload)
            times[name_of(each)] = ([], [])
        for n_done in range(options.repetitions):
            for each in contenders:
                alone, disturbed = times[name_of(each)]
                alone.append(each.run(workload))
                with busy_loop(core):
                    disturbed.append(each.run(workload))
            show(n_done + 1)
    rows = [
        {"engine": engine, "setting": setting, **row_of(workload, *pair)}
        for (engine, setting), pair in times.items()
    ]
    return {"test": workload.name, "rows": rows, "absent": arena.absent, "peers": arena.peers}


def name_of(contender: Contender) -> tuple[str, str]:
    return contender.peer or "Pyroclast", contender.setting


def row_of(workload: Workload, alone: list[float], disturbed: list[float]) -> dict[str, Any]:
    """Both speeds, and the ratio of the two within each repetition."""
    low, median, high = quartiles([a / b for a, b in zip(alone, disturbed, strict=True)])
    return {
        "alone": spread([workload.n_timed / each for each in alone]),
        "disturbed": spread([workload.n_timed / each for each in disturbed]),
        "share": median,
        "share_low": low,
        "share_high": high,
    }


def markdown(result: dict[str, Any]) -> str:
    """The rows as a table."""
    header = ("engine", "setting", f"alone, {result['test']} t/s", "disturbed", "share (quartiles)")
    lines = ["| " + " | ".join(header) + " |", "|---|---|---:|---:|---:|"]
    for row in result["rows"]:
        share = f"{row['share']:.0%} ({row['share_low']:.0%} to {row['share_high']:.0%})"
        speeds = f"{row['alone']['median_ts']:.1f} | {row['disturbed']['median_ts']:.1f}"
        lines.append(f"| {row['engine']} | {row['setting']} | {speeds} | {share} |")
    made = result["made_with"]
    lines += ["", f"{made['cpu']}, Pyroclast {made['commit']}, {made['date']}."]
    lines += [f"Absent: {name}: {reason}." for name, reason in result["absent"].items()]
    return "\n".join(lines)


def for_file(result: dict[str, Any]) -> dict[str, Any]:
    """The result as a file keeps it, without the single runs."""
    both = ("alone", "disturbed")
    rows = [
        {**row, **{kind: without_samples(row[kind]) for kind in both}} for row in result["rows"]
    ]
    return {**result, "rows": rows}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = make_parser(description)
    parser.add_argument("-n", "--gen", type=int, default=64, metavar="N", help="tokens of a run")
    args = parser.parse_args(words)
    with told_in_a_line(parser.prog):
        options = read_options(parser, args)
        format = one_format(parser, options)
        with progress_bar(options.repetitions, "round") as show:
            result = run(options, format, args.gen, show)
        made_with = {**environment(), "n_threads": options.threads}
        about = {"model": options.model, "format": args.format, "target": TARGET}
        result = {"made_with": made_with, **about, **result}
        print(markdown(result))
        if args.json:
            write_result(args.json, for_file(result))


if __name__ == "__main__":
    main(__doc__ or "")
