"""The flags shared by the commands that compare engines, and their error messages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroclast.errors import PyroclastError
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.table import PEERS, find
from pyroclast_kernels import features


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the shared flags."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="GGUF file, name, dummy:")
    parser.add_argument("--format", default="", help="q8_0,q4_0,...; default: as the file is")
    parser.add_argument("--pure", action="store_true", help="every matrix in that format itself")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="or ik_llama.cpp=PROGRAM"
    )
    parser.add_argument(
        "--peers", nargs="?", const="", metavar="DIR", help="every engine found here, or in DIR"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where files are made, and kept")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=features.n_cpus())
    parser.add_argument("--kernels", help="Pyroclast's selection rules")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--json", "--out", type=Path, metavar="FILE")
    return parser


def read_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> CompareOptions:
    """What the flags say; wrong usage ends the process with one line."""
    named = dict(each.partition("=")[::2] for each in args.peer)
    for name in named:
        if name not in PEERS:
            parser.error(f"no worker for {name!r}; there are: {', '.join(PEERS)}")
    found, missing = find_peers(args.peers)
    if args.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {args.repetitions}")
    return CompareOptions(
        model=args.model,
        formats=tuple(args.format.split(",")) if args.format else (None,),
        pure=args.pure,
        peers=found | named,
        missing={name: why for name, why in missing.items() if name not in named},
        cache=args.cache,
        repetitions=args.repetitions,
        threads=args.threads,
        kernels=args.kernels,
        compute=args.compute,
        kv_dtype=args.kv_dtype,
    )


def find_peers(directory: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """(peer -> its Python, peer -> why there is none) for a value of --peers: None means no peers,
    "" those that this Python has, a directory also those with an environment in it."""
    if directory is None:
        return {}, {}
    return find(Path(directory) if directory else None)


def one_format(parser: argparse.ArgumentParser, options: CompareOptions) -> str | None:
    """The format of a command that takes one."""
    if len(options.formats) > 1:
        given = ",".join(map(str, options.formats))
        parser.error(f"--format must be one format here, got {given}")
    return options.formats[0]


@contextmanager
def told_in_a_line(program: str) -> Iterator[None]:
    """Turns a PyroclastError into one line and exit code 1."""
    try:
        yield
    except PyroclastError as error:
        sys.exit(f"{program}: error: {error}")
