"""Times Pyroclast and other engines in turn (A B A B) on the same weights, in one run.

    python bench/engine.py -p 512 -n 128
    python bench/engine.py --model dummy:llama-3.2-1b --format q8_0,q4_0 \
        --peer llama.cpp=PEER/bin/python --json bench/results/NAME.json

Each engine is a worker process that stays loaded; one of them is busy at a time, and each
repetition of each test goes round all of them, so that the machine's moods meet all alike.
PEER/bin/python is any Python that has the peer's package (pip install llama-cpp-python).
What each engine is timed at: see peers/*_worker.py.  The ceilings are measured between the rounds.
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

from peers.arena import PEERS, WORKERS, Arena  # noqa: E402
from peers.client import Client, PeerError  # noqa: E402
from peers.files import model_file  # noqa: E402
from peers.report import markdown  # noqa: E402
from pyroclast import shapes  # noqa: E402
from pyroclast.bench import make_workloads  # noqa: E402
from pyroclast.bench_rows import environment  # noqa: E402
from pyroclast.cli import numbers  # noqa: E402
from pyroclast.errors import PyroclastError  # noqa: E402
from pyroclast_kernels import features  # noqa: E402

# What may go unmentioned: the share of a core that engines take while it is another one's turn,
# and the load average per core before it all.
IDLE_SHARE = 0.02
# Engines that read the same tokens come to nearly the same logits, however they round.
SAME_LOGITS = 0.98  # correlation
BUSY_LOAD = 0.2


def quantizer(args: argparse.Namespace) -> Any:
    """Writes files anew in the peer's Python that has llama.cpp."""

    def quantize(source: Path, target: Path, format: str) -> None:
        print(f"writing {target.name.rpartition('.gguf')[0]}.gguf ...", file=sys.stderr)
        with Client(args.peer["llama.cpp"], WORKERS / "llama_worker.py", {}) as client:
            client.ask(
                "quantize",
                source=str(source),
                target=str(target),
                format=format,
                pure=args.pure,
                threads=args.threads,
            )

    return quantize


def model_of(args: argparse.Namespace, format: str | None) -> str:
    """What all engines load.  Without peers no file is needed."""
    if not args.peer:
        return args.model if format is None else f"{args.model}@{format}"
    if format not in (None, "f16") and "llama.cpp" not in args.peer:
        raise PeerError(f"making a {format} file takes --peer llama.cpp=PYTHON, which has the tool")
    return str(model_file(args.model, format, quantizer(args), pure=args.pure))


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
    if arena.idle_share > IDLE_SHARE:
        found.append(f"idle engines took {arena.idle_share:.0%} of a core while another one ran")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="GGUF file, name, dummy:")
    parser.add_argument("--format", default="", help="q8_0,q4_0,...; default: as the file is")
    parser.add_argument("--pure", action="store_true", help="every matrix in that very format")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    for flag, name, default in (("-p", "prompt", "512"), ("-n", "gen", "128")):
        parser.add_argument(flag, f"--{name}", type=numbers, default=default, metavar="N,...")
    for flag, name, default in (("-d", "depth", "0"), ("-b", "batch", "1")):
        parser.add_argument(flag, f"--{name}", type=numbers, default=default, metavar="N,...")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=features.n_cpus())
    parser.add_argument("--kernels", help="Pyroclast's selection rules")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also to standard output")
    args = parser.parse_args()
    args.peer = dict(each.partition("=")[::2] for each in args.peer)
    for name in args.peer:
        if name not in PEERS:
            parser.error(f"no worker for {name!r}; there are: {', '.join(PEERS)}")
    if args.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {args.repetitions}")
    return args


def main() -> None:
    args = parse()
    load_before = os.getloadavg()
    workloads = make_workloads(args.prompt, args.gen, args.depth, args.batch)
    arena = Arena(args, workloads)
    rows = []
    for format in args.format.split(",") if args.format else [None]:
        model = model_of(args, format)
        label = args.model.removeprefix(shapes.PREFIX) + (f" {format}" if format else "")
        for row in arena.rows(model, label):
            rows.append(row)
            ratios = [
                f"{name} {peer['variants'][peer['best']]['ratio']:.2f}x"
                for name, peer in row["peers"].items()
            ]
            line = f"{label} {row['test']}: {row['median_ts']:.1f} tokens/s {' '.join(ratios)}"
            print(line, file=sys.stderr)
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
    result = {"made_with": made_with, "rows": rows}
    table = markdown(result)
    print(table)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table + "\n")


if __name__ == "__main__":
    try:
        main()
    except (PyroclastError, PeerError) as error:
        sys.exit(f"engine.py: error: {error}")
