"""The products of a phase apart, by the weights that they read: q, k and v, o, gate and up, down.

A product reads its packed weight once a step, and does two operations for each of its values and
tokens.  Activations are not counted.  The share is the least time that this machine's ceilings
allow, with reads from memory, over the time taken; None where no ceilings are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyroclast.lab.profile.breakdown import Group, groups
from pyroclast.lab.profile.record import RecordedStep
from pyroclast.lab.speed.machine import roofline
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast.lab.speed.throughput_rows import arithmetic_of
from pyroclast.model.packer import Place
from pyroclast_kernels.program import OpCall

_OPS = ("matmul", "gate_up")  # of experts, what is read depends on the tokens


def products(
    steps: Sequence[RecordedStep],
    places: Mapping[str, Place],
    ceilings: Sequence[MeasuredCeiling],
) -> list[dict[str, Any]]:
    """A dict for each product of all layers together, the slowest first; fit for JSON."""
    names = _names(places)

    def name_of(call: OpCall) -> str:
        is_product = call.kernel.op in _OPS
        return names.get(id(call.arguments["weight"]), "") if is_product else ""

    work: dict[str, tuple[int, int]] = {}
    formats: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for step in steps:
        for call in step.run.program.calls:
            if name := name_of(call):
                n_bytes, n_flops = work.get(name, (0, 0))
                weight, n = call.arguments["weight"], _n_tokens(step, call)
                n_flops += 2 * weight.n_rows * weight.n_cols * n
                work[name] = (n_bytes + weight.n_bytes, n_flops)
                formats[name] = call.kernel.format
                kind = arithmetic_of(call.kernel.format, step.variant(call), n)
                if kinds.get(name) != "amxbf16":  # the fastest, where steps differ
                    kinds[name] = kind
    return [
        _row(group, formats[group.name], kinds[group.name], *work[group.name], ceilings)
        for group in groups(steps, name_of)
        if group.name
    ]


def _names(places: Mapping[str, Place]) -> dict[int, str]:
    """id of a weight -> the names of the matrices in it, without their layer: "wq+wk+wv"."""
    found: dict[int, dict[str, None]] = {}
    for name, place in places.items():
        short = "output" if name == "token_embd" else name.rpartition(".")[2]
        found.setdefault(id(place.target), {})[short] = None
    return {key: "+".join(names) for key, names in found.items()}


def _n_tokens(step: RecordedStep, call: OpCall) -> int:
    """A call that does not read the step's count, such as the output's, has one token."""
    return step.n_tokens if call.n_tokens is step.count else 1


def _row(
    group: Group,
    format: str,
    kind: str,
    n_bytes: int,
    n_flops: int,
    ceilings: Sequence[MeasuredCeiling],
) -> dict[str, Any]:
    seconds = max(group.wall_ns, 1) / 1e9
    share, limit = roofline(seconds, n_flops, n_bytes, kind, list(ceilings), "cold")
    return {
        "name": group.name,
        "format": format,
        "wall_us": group.wall_ns / 1000,
        "gb_s": n_bytes / seconds / 1e9,
        "gflop_s": n_flops / seconds / 1e9,
        "roofline_share": share,
        "roofline_limit": limit,
    }
