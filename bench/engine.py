"""Times Pyroclast and other engines in turn (A B A B) on the same weights, in one run.

    python bench/engine.py -p 512 -n 128
    python bench/engine.py --model dummy:llama-3.2-1b --format q8_0,q4_0 --peers ENVIRONMENTS
    python bench/engine.py --peer llama.cpp=PEER/bin/python --json bench/results/NAME.json
    python bench/engine.py --suite cpu --minutes 40 --peers ENVIRONMENTS --out FILE.json

Each engine is a worker process that stays loaded; one of them is busy at a time, and each
repetition of each test goes round all of them, so that the machine's moods meet all alike.
PEER/bin/python is any Python that has the peer's package.  --peers takes all that there are:
ENVIRONMENTS/llama, /openvino, /ctranslate2 and /transformers, or this very Python's; those that
are missing are told.  What each engine is timed at: see peers/*_worker.py.  The ceilings are
measured between the rounds.  --suite does a fixed list of such runs: see peers/suite.py.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from peers import arguments, suite  # noqa: E402
from peers.arena import Arena  # noqa: E402
from peers.client import PeerError  # noqa: E402
from peers.report import markdown  # noqa: E402
from peers.store import Store  # noqa: E402
from pyroclast.checkpoint import dummy as shapes  # noqa: E402
from pyroclast.cli.flags import numbers  # noqa: E402
from pyroclast.errors import PyroclastError  # noqa: E402
from pyroclast.lab.speed.throughput import make_workloads  # noqa: E402
from pyroclast.lab.speed.throughput_rows import environment  # noqa: E402
from pyroclast.progress import progress_bar  # noqa: E402
from pyroclast_kernels import features  # noqa: E402

# What may go unmentioned: the share of a core that engines take while it is another one's turn,
# and the load average per core before it all.
IDLE_SHARE = 0.02
BUSY_LOAD = 0.2
# Engines that read the same tokens come to nearly the same logits, however they round.
SAME_LOGITS = 0.98  # correlation
SAME_CHOICE = 0.001  # of the vocabulary is likelier than what a peer finds likeliest


def warnings(arena: Arena, load: float) -> list[str]:
    """What should make a reader doubt the figures."""
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add(parser)
    for flag, name, default in (("-p", "prompt", "512"), ("-n", "gen", "128")):
        parser.add_argument(flag, f"--{name}", type=numbers, default=default, metavar="N,...")
    for flag, name, default in (("-d", "depth", "0"), ("-b", "batch", "1")):
        parser.add_argument(flag, f"--{name}", type=numbers, default=default, metavar="N,...")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also to standard output")
    suite.add_arguments(parser)
    args = parser.parse_args()
    arguments.check(parser, args)
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The rows of every format, and what they were made with."""
    load_before = os.getloadavg()
    workloads = make_workloads(args.prompt, args.gen, args.depth, args.batch)
    arena = Arena(args, workloads)
    arena.absent |= args.missing
    store, rows = Store(args), []
    with progress_bar(len(args.formats) * len(workloads), "row") as show:
        for format in args.formats:
            model = store.ours(format)
            label = args.model.removeprefix(shapes.PREFIX) + (f" {format}" if format else "")
            for row in arena.rows(model, label, lambda peer, f=format: store.theirs(peer, f)):
                rows.append(row)
                show(len(rows))
                print(summary(row), file=sys.stderr)
    made_with = {
        **environment(),
        "system": platform.platform(),
        "n_threads": args.threads,
        "repetitions": args.repetitions,
        "pure": args.pure,
        "peers": arena.peers,
        "absent": arena.absent,
        "idle_share": arena.idle_share,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "warnings": warnings(arena, load_before[0]),
    }
    return {"made_with": made_with, "rows": rows}


def summary(row: dict[str, Any]) -> str:
    """One line for whoever watches."""
    ratios = [
        f"{name} {peer['variants'][peer['best']]['ratio']:.2f}x"
        for name, peer in row["peers"].items()
    ]
    return f"{row['label']} {row['test']}: {row['median_ts']:.1f} tokens/s {' '.join(ratios)}"


def main() -> None:
    args = parse()
    if args.suite:
        sys.exit(suite.run(args))
    result = measure(args)
    table = markdown(result)
    print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table + "\n")


if __name__ == "__main__":
    try:
        main()
    except (PyroclastError, PeerError) as error:
        sys.exit(f"engine.py: error: {error}")
