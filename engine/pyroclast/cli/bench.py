"""The command about speed: bench."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pyroclast.cli.terminal import colour, fail, usage, write
from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    from argparse import Namespace

    from pyroclast.lab.speed.throughput import Workload

_COLUMNS = ("model", "size", "threads", "test", "tokens/s", "share of ceiling")


def bench(args: Namespace) -> None:
    """A row for each workload: JSON lines, or a Markdown table and how it was made."""
    workloads = workloads_of(args)
    if args.peers is not None:
        from pyroclast.cli.peers import compare

        compare(args, workloads)
        return
    from pyroclast.lab.speed.throughput import Runner
    from pyroclast.lab.speed.throughput_rows import measure

    options = {"kernels": args.kernels, "threads": args.threads, "compute": args.compute}
    row: dict[str, Any] = {}
    with Runner(args.model, workloads, kv_dtype=args.kv_dtype, **options) as runner:
        n_runs = len(workloads) * (1 + args.repetitions)
        with progress_bar(n_runs, "run") as show:
            printer = RowPrinter(runner.name, [workload.name for workload in workloads])
            for row in measure(runner, workloads, args.repetitions, show):
                if args.json:
                    write(json.dumps(row))
                else:
                    printer.add(row)
    if not args.json:
        tell_how(row)


def workloads_of(args: Namespace) -> list[Workload]:
    """What the flags ask for; a number out of range is wrong usage."""
    from pyroclast.lab.speed.throughput import make_workloads

    if args.repetitions < 1:
        fail(f"--repetitions must be at least 1, got {args.repetitions}", code=2)
    with usage():
        return make_workloads(args.prompt, args.gen, args.depth, args.batch)


class RowPrinter:
    """Prints a Markdown table row by row, with columns aligned."""

    def __init__(self, model: str, tests: list[str]) -> None:
        longest = [len(model), 8, 0, max(map(len, tests)), 17, 19]
        self._widths = [max(len(c), n) for c, n in zip(_COLUMNS, longest, strict=True)]
        self._begun = False

    def add(self, row: dict[str, Any]) -> None:
        """Writes a row; the header comes before the first one."""
        if not self._begun:
            self._begun = True
            self._write(_COLUMNS)
            write("|" + "|".join("-" * (width + 1) + ":" for width in self._widths) + "|")
        share, ceiling = row["roofline_share"], row["ceiling"]
        of = "" if share is None else f"{share:.0%} of {ceiling['value']:.0f} {ceiling['unit']}"
        speed = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
        size = f"{row['weight_bytes'] / 2**20:.0f} MiB"
        self._write((row["model"], size, str(row["n_threads"]), row["test"], speed, of))

    def _write(self, cells: tuple[str, ...]) -> None:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))
        write("| " + " | ".join(padded) + " |")


def tell_how(row: dict[str, Any]) -> None:
    """Says how the rows above were made."""
    kernels = ", ".join(f"{op}={variant}" for op, variant in sorted(row["kernels"].items()))
    lines = (
        f"{row['cpu']}, Python {row['python']}, pyroclast {row['commit']}, {row['date']}",
        f"kv_dtype {row['kv_dtype']}, compute {row['compute']}; kernels: {kernels}",
        f"tuned table: {row['table']}",
        "Tokenization and sampling are not part of it, as in llama-bench.",
    )
    write()
    for line in lines:
        write(colour(line, "2", sys.stdout))
