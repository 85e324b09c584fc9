"""What the scripts that compare engines are told alike: a model, its formats, and the peers."""

import argparse
from pathlib import Path

from peers.table import PEERS, find
from pyroclast_kernels import features


def add(parser: argparse.ArgumentParser) -> None:
    """The flags that every such script has."""
    parser.add_argument("--model", default="smollm2-135m-instruct", help="GGUF file, name, dummy:")
    parser.add_argument("--format", default="", help="q8_0,q4_0,...; default: as the file is")
    parser.add_argument("--pure", action="store_true", help="every matrix in that very format")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument(
        "--peers", nargs="?", const="", metavar="DIR", help="all that there are, also in DIR"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where files are made, and kept")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=features.n_cpus())
    parser.add_argument("--kernels", help="Pyroclast's selection rules")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--json", "--out", type=Path, metavar="FILE")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Makes args.peer a dict: peer -> Python, and args.missing one: peer -> why there is none."""
    args.peer = dict(each.partition("=")[::2] for each in args.peer)
    for name in args.peer:
        if name not in PEERS:
            parser.error(f"no worker for {name!r}; there are: {', '.join(PEERS)}")
    args.missing = {}
    if args.peers is not None:
        found, missing = find(Path(args.peers) if args.peers else None)
        args.missing = {name: why for name, why in missing.items() if name not in args.peer}
        args.peer = found | args.peer
    if args.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {args.repetitions}")
    args.formats = args.format.split(",") if args.format else [None]
