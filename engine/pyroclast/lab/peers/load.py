"""How long a file takes to load from a warm page cache, and how much memory it takes at most.

Pyroclast loads the file that the others load, and a packed file of it.  Every run is a new process;
the engines take turns.  Two durations are measured: the load
itself, without imports, and the time from its end to the first token.  Peak memory is that of the
whole process (VmHWM), the interpreter and its imports included, as a share of the file and the
key-value cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.lab.peers.arena import Arena, Contender
from pyroclast.lab.peers.arguments import make_parser, one_format, read_options, told_in_a_line
from pyroclast.lab.peers.client import PeerError
from pyroclast.lab.peers.files import cache_directory, made_once
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.store import Store
from pyroclast.lab.peers.table import PEERS
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput import Workload
from pyroclast.lab.speed.throughput_rows import environment, quartiles
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes
from pyroclast.model.write_packed import write_packed
from pyroclast.progress import progress_bar

TARGET_S, TARGET_SHARE = 1.5, 1.15
Samples = dict[str, list[dict[str, float]]]


def run(
    options: CompareOptions, format: str | None, n_depth: int, show: Callable[[int], None]
) -> dict[str, Any]:
    """Each engine's loads: seconds, seconds to the first token, bytes at the peak.

    n_depth: how many tokens the cache has room for, beside the first one to generate."""
    first_token, room = Workload(0, 1), Workload(0, 1, n_depth)
    arena, store = Arena(options, [first_token, room]), Store(options)
    model = store.ours(format)
    if not Path(model).is_file():
        raise PeerError(f"a file must be loaded, not {model}; --peers makes one of a dummy")
    packed = packed_file(Path(model), options.cache)
    for path in (Path(model), packed):
        read_through(path)
    samples: Samples = {}
    for n_done in range(options.repetitions):
        for name, path in (("Pyroclast", Path(model)), ("Pyroclast (packed file)", packed)):
            with ExitStack() as stack:
                note(samples, arena.ours(stack, str(path)), first_token, name)
        # Each engine ends before the next one starts, so that only one holds memory.
        for peer, setting, file in settings(options, store, format):
            try:
                with ExitStack() as stack:
                    contender = arena.contender(stack, peer, setting, file, {})
                    note(samples, contender, first_token, f"{peer} ({setting})")
            except PeerError as error:
                arena.absent[f"{peer} ({setting})"] = str(error)
        show(n_done + 1)
    with open_checkpoint(model) as checkpoint:
        kv_bytes = block_bytes(checkpoint.config, "f16") * -(-(n_depth + 1) // BLOCK_SIZE)
    about = {"file_bytes": Path(model).stat().st_size, "kv_bytes": kv_bytes}
    rows = [{"engine": name, **summary(found, about)} for name, found in samples.items()]
    return {**about, "rows": rows, "absent": arena.absent, "peers": arena.peers}


def settings(
    options: CompareOptions, store: Store, format: str | None
) -> Iterator[tuple[str, str, str]]:
    """(Peer, setting, file) of all settings that load in different ways."""
    for peer in options.peers:
        file = store.theirs(peer, format)
        if PEERS[peer].program:  # it loads anew for each run
            continue
        for setting, (_, run_options) in PEERS[peer].settings.items():
            if file and not run_options.get("kv_unified"):
                yield peer, setting, file


def read_through(path: Path) -> None:
    """Reads the file, so that its pages are in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def packed_file(model: Path, directory: Path | None) -> Path:
    """The packed file of a model, made unless it exists."""

    def make(target: Path) -> None:
        write_packed(str(model), str(target))

    path = cache_directory(directory) / f"{model.stem}.{model.stat().st_mtime_ns:x}.pyro"
    made_once(path, make)
    return path


def note(samples: Samples, contender: Contender, workload: Workload, name: str) -> None:
    """Runs a loaded engine for its first token, and adds its figures to the samples."""
    start = time.perf_counter()
    contender.run(workload)
    first_s = time.perf_counter() - start
    found = {"load_s": contender.load_s, "first_token_s": first_s}
    found["peak_bytes"] = contender.client.peak_bytes()
    samples.setdefault(name, []).append(found)


def summary(samples: list[dict[str, float]], about: dict[str, int]) -> dict[str, Any]:
    """Medians and quartiles, and the peak as a share of the bytes that must be held."""
    row: dict[str, Any] = {"n_samples": len(samples)}
    for key in samples[0]:
        low, row[key], high = quartiles([each[key] for each in samples])
        row[f"{key}_quartiles"] = [low, high]
    held = about["file_bytes"] + about["kv_bytes"]
    return {**row, "peak_share": row["peak_bytes"] / held}


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


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = make_parser(description)
    room = "tokens that the cache has room for"
    parser.add_argument("-d", "--depth", type=int, default=511, metavar="N", help=room)
    args = parser.parse_args(words)
    with told_in_a_line(parser.prog):
        options = read_options(parser, args)
        format = one_format(parser, options)
        with progress_bar(options.repetitions, "round") as show:
            result = run(options, format, args.depth, show)
        made_with = {**environment(), "n_threads": options.threads}
        made_with["load_average"] = os.getloadavg()
        about = {"model": options.model, "format": args.format}
        about["target"] = {"load_s": TARGET_S, "peak_share": TARGET_SHARE}
        result = {"made_with": made_with, **about, **result}
        print(markdown(result))
        if args.json:
            write_result(args.json, result)


if __name__ == "__main__":
    main(__doc__ or "")
