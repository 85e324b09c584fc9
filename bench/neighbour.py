"""What a busy neighbour costs: decode speed with a loop pinned on one of the cores, as a share of
the undisturbed speed, Pyroclast and others in turn.

    python bench/neighbour.py --format q4_0 --peers ENVIRONMENTS --json FILE.json

Each repetition runs every engine alone and disturbed, one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from peers import arguments  # noqa: E402
from peers.arena import Arena, Contender  # noqa: E402
from peers.client import PeerError  # noqa: E402
from peers.report import quartiles  # noqa: E402
from peers.store import Store  # noqa: E402
from pyroclast.errors import PyroclastError  # noqa: E402
from pyroclast.lab.speed.throughput import Workload  # noqa: E402
from pyroclast.lab.speed.throughput_rows import environment, spread  # noqa: E402
from pyroclast.progress import progress_bar  # noqa: E402

_LOOP = "while True: pass"
TARGET = 0.4  # of the undisturbed speed


@contextmanager
def busy_loop(core: int) -> Iterator[None]:
    """A process that does nothing, on one core, without end."""
    process = subprocess.Popen([sys.executable, "-c", _LOOP])
    try:
        os.sched_setaffinity(process.pid, {core})
        yield
    finally:
        process.kill()
        process.wait()


def run(args: argparse.Namespace, format: str | None, show: Any) -> dict[str, Any]:
    """A row for each engine and setting."""
    workload = Workload(0, args.gen)
    core = max(os.sched_getaffinity(0))
    arena, store = Arena(args, [workload]), Store(args)
    arena.absent |= args.missing
    model = store.ours(format)
    times: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    with ExitStack() as stack:
        contenders = [arena.ours(stack, model)]
        contenders += arena.theirs(stack, lambda peer: store.theirs(peer, format), Path(model).name)
        contenders = [each for each in contenders if each.applies(workload)]
        for each in contenders:
            each.warm_up(workload)
            times[name_of(each)] = ([], [])
        for n_done in range(args.repetitions):
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
    """Speeds of both kinds, and the ratio within each repetition."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add(parser)
    parser.add_argument("-n", "--gen", type=int, default=64, metavar="N", help="tokens of a run")
    args = parser.parse_args()
    arguments.check(parser, args)
    if len(args.formats) > 1:
        parser.error(f"--format must be one format here, got {args.format}")
    with progress_bar(args.repetitions, "round") as show:
        result = run(args, args.formats[0], show)
    result = {"made_with": {**environment(), "n_threads": args.threads}, **result}
    result |= {"model": args.model, "format": args.format, "target": TARGET}
    print(markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (PyroclastError, PeerError) as error:
        sys.exit(f"neighbour.py: error: {error}")
