"""The command of the GPU benchmark: its flags, the run, and the table at the end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyroclast.lab.gpu.parts import tasks
from pyroclast.lab.gpu.run import PARTS, Bench, GpuOptions
from pyroclast.lab.gpu.sizes import FULL, SMALL, know_tiny_shape
from pyroclast.lab.gpu.table import table


def main(description: str, checkout: Path, words: Sequence[str] | None = None) -> None:
    """Runs the benchmark of a checkout, with these arguments or those of the process."""
    options = parse(description, checkout, sys.argv[1:] if words is None else words)
    sizes = FULL
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
        know_tiny_shape()
        sizes = SMALL
    result = Bench(options, sizes).run()
    print(table(result))
    print(f"written to {options.out}")


def parse(description: str, checkout: Path, words: Sequence[str]) -> GpuOptions:
    """What the flags say; wrong usage ends the process with one line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="limit for everything (9.5)")
    parser.add_argument("--only", default="", metavar="PART,...", help="these parts, and ceilings")
    default = checkout / "bench" / "results" / "gpu_local.json"
    parser.add_argument("--out", type=Path, default=default, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="rows with a target, and little else")
    parser.add_argument("--dry-run", action="store_true", help="tiny, in Triton's interpreter")
    args = parser.parse_args(words)
    if not 0 < args.minutes < 1e4:
        parser.error(f"--minutes must be more than 0, got {args.minutes:g}")
    only = tuple(part.strip() for part in args.only.split(",") if part.strip())
    known = dict.fromkeys([*PARTS, *(task.part for task in tasks(FULL))])
    for part in only:
        if part not in known:
            parser.error(f"no part {part!r}; there are: {', '.join(known)}")
    return GpuOptions(
        checkout, args.out, args.minutes, only, args.quick, args.dry_run, arguments=tuple(words)
    )
