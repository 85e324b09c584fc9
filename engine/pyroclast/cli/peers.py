"""`pyroclast bench --peers`: the workloads of `bench`, by other engines too, in turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyroclast.cli.terminal import write

if TYPE_CHECKING:
    from argparse import Namespace

    from pyroclast.lab.peers.options import CompareOptions
    from pyroclast.lab.speed.throughput import Workload


def compare(args: Namespace, workloads: list[Workload]) -> None:
    """A table, or the rows as JSON lines, each with the peers that are missing and the warnings."""
    from pyroclast.lab.peers.comparison import measure
    from pyroclast.lab.peers.report import markdown

    options = options_of(args)
    result = measure(options, workloads)
    if not args.json:
        write(markdown(result))
        return
    for row in rows_of(result):
        write(json.dumps(row))


def options_of(args: Namespace) -> CompareOptions:
    """What the flags of `pyroclast bench` ask a comparison for."""
    from pyroclast.lab.peers.arguments import find_peers
    from pyroclast.lab.peers.options import CompareOptions
    from pyroclast_kernels import features

    peers, missing = find_peers(args.peers)
    return CompareOptions(
        model=str(args.model),
        peers=peers,
        missing=missing,
        repetitions=args.repetitions,
        threads=args.threads or features.n_cpus(),
        kernels=args.kernels,
        compute=args.compute,
        kv_dtype=args.kv_dtype,
    )


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, each with what a reader must know of the whole run."""
    made = result["made_with"]
    about = {name: made[name] for name in ("absent", "warnings")}
    return [{**row, **about} for row in result["rows"]]
