"""Times Pyroclast and other engines in turn (A B A B) on the same weights, in one run.

Each engine is a worker process that stays loaded.  (The program of ik_llama.cpp loads for each run,
and the second of its two repetitions counts.)  One of them is busy at a time, and every
repetition of a test goes round all of them, so that a change in the machine's speed affects all
alike.  The machine's limits are measured between the rounds.  What each engine is timed at stands
in its worker, `pyroclast.lab.peers.workers`.  --suite runs a fixed list of such comparisons.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyroclast.checkpoint import dummy as shapes
from pyroclast.lab.peers import suite
from pyroclast.lab.peers.arena import Arena
from pyroclast.lab.peers.arguments import make_parser, read_options, told_in_a_line
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.report import markdown
from pyroclast.lab.peers.store import Store
from pyroclast.lab.speed.result_file import without_samples, write_result
from pyroclast.lab.speed.throughput import Workload, make_workloads
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.lab.speed.workload_flags import add_workload_flags
from pyroclast.progress import off_the_line, progress_bar
from pyroclast_kernels import features
from pyroclast_kernels.whole_file import write_text

# Above these there is a warning: the share of a core that idle engines take during another's turn,
# and the load average per core before the run.
IDLE_SHARE = 0.02
BUSY_LOAD = 0.2
# Below this correlation there is a warning: engines that read the same tokens come to nearly the
# same logits, however they round.
SAME_LOGITS = 0.98
SAME_CHOICE = 0.001  # share of the vocabulary that our logits may rank above a peer's choice


def warnings(arena: Arena, load: float) -> list[str]:
    """Reasons to doubt the figures."""
    found = []
    if load > BUSY_LOAD * features.n_cpus():
        found.append(f"the machine was busy with something else before: load average {load:.1f}")
    llama = arena.peers.get("llama.cpp", {})
    if "avx512_vnni" in features.cpu_flags() and llama and not llama["avx512_vnni"]:
        found.append("this llama.cpp was built without AVX512_VNNI, which this CPU has")
    if arena.least_alike < SAME_LOGITS:
        found.append(f"logits of a peer correlate with ours by {arena.least_alike:.3f} only")
    if arena.worst_rank > SAME_CHOICE:
        found.append(f"a peer chose a token that we find less likely than {arena.worst_rank:.1%}")
    if arena.idle_share > IDLE_SHARE:
        found.append(f"idle engines took {arena.idle_share:.0%} of a core while another one ran")
    return found


def measure(options: CompareOptions, workloads: Sequence[Workload]) -> dict[str, Any]:
    """The rows of every format, and how they were made."""
    load_before = os.getloadavg()
    arena, store = Arena(options, workloads), Store(options)
    rows: list[dict[str, Any]] = []
    with progress_bar(len(options.formats) * len(workloads), "row") as show:
        for format in options.formats:
            model = store.ours(format)
            label = options.model.removeprefix(shapes.PREFIX) + (f" {format}" if format else "")
            for row in arena.rows(model, label, partial(store.theirs, format=format)):
                rows.append(row)
                show(len(rows))
                with off_the_line():
                    print(summary(row), file=sys.stderr)
    made_with = {
        **environment(),
        "system": platform.platform(),
        "n_threads": options.threads,
        "repetitions": options.repetitions,
        "pure": options.pure,
        "peers": arena.peers,
        "absent": arena.absent,
        "idle_share": arena.idle_share,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "warnings": warnings(arena, load_before[0]),
    }
    return {"made_with": made_with, "rows": rows}


def summary(row: dict[str, Any]) -> str:
    """A line of progress."""
    ratios = [
        f"{name} {peer['variants'][peer['best']]['ratio']:.2f}x"
        for name, peer in row["peers"].items()
    ]
    return f"{row['label']} {row['test']}: {row['median_ts']:.1f} tokens/s {' '.join(ratios)}"


def for_file(result: dict[str, Any]) -> dict[str, Any]:
    """The result as a file keeps it: medians and quartiles, without the single runs."""
    rows = []
    for row in result["rows"]:
        peers = {
            name: {
                **peer,
                "variants": {k: without_samples(v) for k, v in peer["variants"].items()},
            }
            for name, peer in row["peers"].items()
        }
        rows.append({**without_samples(row), "peers": peers})
    return {**result, "rows": rows}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = make_parser(description)
    add_workload_flags(parser)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also to standard output")
    suite.add_arguments(parser)
    args = parser.parse_args(words)
    with told_in_a_line(parser.prog):
        options = read_options(parser, args)
        if args.suite:
            sys.exit(suite.run(options, suite.SuiteOptions.of(args)))
        workloads = make_workloads(args.prompt, args.gen, args.depth, args.batch)
        result = measure(options, workloads)
        table = markdown(result)
        print(table)
        if args.json:
            write_result(args.json, for_file(result))
        if args.markdown:
            write_text(args.markdown, table + "\n")


if __name__ == "__main__":
    main(__doc__ or "")
