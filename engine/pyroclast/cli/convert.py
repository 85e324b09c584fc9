"""The command convert: a folder or a GGUF file to a GGUF file in another format, or to a packed
file, which loads without any work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyroclast.cli.flags import add_threads
from pyroclast.cli.terminal import counted, fail, warn, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.checkpoint.convert.run import Converted


def add_arguments(command: ArgumentParser, name: str) -> None:
    """Source, destination, format."""
    del name
    add = command.add_argument
    add("source", metavar="SRC", help="a GGUF file, a Hugging Face folder, or a model's name")
    add("target", metavar="DST", help="the file to write; it is replaced when all is written")
    add(
        "--packed",
        action="store_true",
        help="write the weights as the CPU's kernels read them, to be mapped at load, as a .pyro "
        "file; without --to in the formats that they have",
    )
    add(
        "--to",
        metavar="FORMAT",
        help="f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, or a "
        "mix: q4_k_s, q4_k_m, q5_k_m",
    )
    add("--adapter", metavar="PATH", help="a LoRA adapter to merge: peft's folder or a GGUF file")
    add_threads(command)


def convert(args: Namespace) -> None:
    """Writes the file, with a bar at a terminal, and says what is in it."""
    from pyroclast.progress import progress_bar

    if args.to is None and not args.packed:
        fail("convert needs --to FORMAT, or --packed, or both", code=2)
    started_s = time.monotonic()
    with ExitStack() as stack:

        def bar(n_total: int) -> Callable[[int], None]:
            unit = "layer" if args.packed else "tensor"
            return stack.enter_context(progress_bar(n_total, unit))

        options = {"adapter": args.adapter, "threads": args.threads}
        done = _converter(args.packed)(args.source, args.target, args.to, bar=bar, **options)
    seconds = time.monotonic() - started_s
    for note in done.notes:
        warn(note)
    if args.json:
        found = {
            "path": done.path,
            "to": args.to,
            "packed": args.packed,
            "n_bytes": done.n_bytes,
            "seconds": seconds,
        }
        write(json.dumps({**found, "formats": done.formats, "notes": done.notes}))
        return
    parts = [f"{counted(row['tensors'], 'tensor')} in {name}" for name, row in done.formats.items()]
    write(f"{done.path}: {', '.join(parts)}; {done.n_bytes / 1e6:,.1f} MB in {seconds:.1f} s")


def _converter(packed: bool) -> Callable[..., Converted]:
    """What writes the file."""
    if packed:
        from pyroclast.model.write_packed import write_packed

        return write_packed
    from pyroclast.checkpoint.convert.run import convert as run

    return run
