"""How long a file takes to load from a warm page cache, and how much memory at most.

    python bench/load.py --model dummy:llama-3.2-1b --format q8_0 --peers ENVIRONMENTS

Every run is a new process, engines in turn.  Timed: the load itself (no imports), and from there to
the first token.  Peak memory is the process's own (VmHWM), the interpreter and its imports
included, as a share of the file and the key-value cache.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from peers import arguments  # noqa: E402
from peers.arena import Arena, Contender  # noqa: E402
from peers.client import PeerError  # noqa: E402
from peers.store import Store  # noqa: E402
from peers.table import PEERS  # noqa: E402
from pyroclast.checkpoint.open import open_checkpoint  # noqa: E402
from pyroclast.errors import PyroclastError  # noqa: E402
from pyroclast.lab.speed.throughput import Workload  # noqa: E402
from pyroclast.lab.speed.throughput_rows import environment  # noqa: E402
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes  # noqa: E402
from pyroclast.progress import progress_bar  # noqa: E402

TARGET_S, TARGET_SHARE = 1.5, 1.15
Samples = dict[str, list[dict[str, float]]]


def run(args: argparse.Namespace, format: str | None, show: Any) -> dict[str, Any]:
    """Each engine's loads: seconds, seconds to the first token, bytes at the peak."""
    # The second only asks for room.
    workloads = [Workload(0, 1), Workload(0, 1, args.depth)]
    arena, store = Arena(args, workloads), Store(args)
    arena.absent |= args.missing
    model = store.ours(format)
    if not Path(model).is_file():
        raise PeerError(f"a file must be loaded, not {model}; --peers makes one of a dummy")
    read_through(Path(model))
    samples: Samples = {}
    for n_done in range(args.repetitions):
        with ExitStack() as stack:
            note(samples, arena.ours(stack, model), workloads[0])
        # One at a time in memory: the engine before has ended when the next one begins.
        for peer, setting, file in settings(args, store, format):
            try:
                with ExitStack() as stack:
                    note(samples, arena.contender(stack, peer, setting, file, {}), workloads[0])
            except PeerError as error:
                arena.absent[f"{peer} ({setting})"] = str(error)
        show(n_done + 1)
    with open_checkpoint(model) as checkpoint:
        kv_bytes = block_bytes(checkpoint.config, "f16") * -(-(args.depth + 1) // BLOCK_SIZE)
    about = {"file_bytes": Path(model).stat().st_size, "kv_bytes": kv_bytes}
    rows = [{"engine": name, **summary(found, about)} for name, found in samples.items()]
    return {**about, "rows": rows, "absent": arena.absent, "peers": arena.peers}


def settings(
    args: argparse.Namespace, store: Store, format: str | None
) -> Iterator[tuple[str, str, str]]:
    """(Peer, setting, file) of all that load in ways of their own."""
    for peer in args.peer:
        file = store.theirs(peer, format)
        for setting, (_, run_options) in PEERS[peer].settings.items():
            if file and not run_options.get("kv_unified"):
                yield peer, setting, file


def read_through(path: Path) -> None:
    """So that its pages are in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def note(samples: Samples, contender: Contender, workload: Workload) -> None:
    """A loaded engine's figures, its first token among them."""
    start = time.perf_counter()
    contender.run(workload)
    first_s = time.perf_counter() - start
    found = {"load_s": contender.load_s, "first_token_s": first_s}
    found["peak_bytes"] = contender.client.peak_bytes()
    name = f"{contender.peer} ({contender.setting})" if contender.peer else "Pyroclast"
    samples.setdefault(name, []).append(found)


def summary(samples: list[dict[str, float]], about: dict[str, int]) -> dict[str, Any]:
    """Medians, and the peak as a share of what must be held."""
    medians = {key: statistics.median(each[key] for each in samples) for key in samples[0]}
    held = about["file_bytes"] + about["kv_bytes"]
    return {**medians, "peak_share": medians["peak_bytes"] / held, "samples": samples}


def markdown(result: dict[str, Any]) -> str:
    """The rows as a table."""
    header = "| engine | load, s | then to the first token, s | peak, GB | of file and KV |"
    lines = [header, "|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        cells = [f"{row['load_s']:.2f}", f"{row['first_token_s']:.2f}"]
        cells += [f"{row['peak_bytes'] / 1e9:.2f}", f"{row['peak_share']:.2f}"]
        lines.append(f"| {row['engine']} | {' | '.join(cells)} |")
    made = result["made_with"]
    size = f"{result['file_bytes'] / 1e9:.2f} GB, KV {result['kv_bytes'] / 1e6:.0f} MB"
    lines += ["", f"File {size}; {made['cpu']}, Pyroclast {made['commit']}, {made['date']}."]
    lines += [f"Absent: {name}: {reason}." for name, reason in result["absent"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add(parser)
    parser.add_argument(
        "-d",
        "--depth",
        type=int,
        default=511,
        metavar="N",
        help="tokens that the cache has room for",
    )
    args = parser.parse_args()
    arguments.check(parser, args)
    if len(args.formats) > 1:
        parser.error(f"--format must be one format here, got {args.format}")
    with progress_bar(args.repetitions, "round") as show:
        result = run(args, args.formats[0], show)
    made_with = {**environment(), "n_threads": args.threads, "load_average": os.getloadavg()}
    result = {"made_with": made_with, "model": args.model, "format": args.format, **result}
    result |= {"target": {"load_s": TARGET_S, "peak_share": TARGET_SHARE}}
    print(markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (PyroclastError, PeerError) as error:
        sys.exit(f"load.py: error: {error}")
