"""Speeds of several engines: ratios of runs that followed each other, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyroclast.lab.speed.throughput_rows import quartiles


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times faster we are: the median and quartiles of the ratios of each repetition.

    Ratios are taken within a repetition, because the machine's speed changes between repetitions.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, median, high = quartiles(ratios)
    return {"ratio": median, "ratio_low": low, "ratio_high": high}


def best_variant(variants: dict[str, dict[str, Any]]) -> str:
    """Of a peer's settings, the one with the highest median speed."""
    return max(variants, key=lambda name: variants[name]["median_ts"])


def markdown(result: dict[str, Any]) -> str:
    """The rows as a table: medians, and the best setting of each peer."""
    rows = result["rows"]
    peers = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    header = ["model", "test", "Pyroclast t/s", "share of ceiling"]
    for peer in peers:
        header += [f"{peer} t/s", "ratio (quartiles)"]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    for row in rows:
        cells = [row["label"], row["test"], f"{row['median_ts']:.1f}", _share(row)]
        for peer in peers:
            cells += _peer_cells(row["peers"].get(peer))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_remarks(result)]
    return "\n".join(lines)


def _share(row: dict[str, Any]) -> str:
    if row["roofline_share"] is None:
        return "-"
    ceiling = row["ceiling"]
    share = f"{row['roofline_share']:.0%} of {ceiling['value']:.0f} {ceiling['unit']}"
    return f"{share} ({ceiling['kind']})"


def _peer_cells(peer: dict[str, Any] | None) -> list[str]:
    if peer is None:
        return ["-", "-"]
    found = peer["variants"][peer["best"]]
    ratio = f"{found['ratio']:.2f} ({found['ratio_low']:.2f} to {found['ratio_high']:.2f})"
    return [f"{found['median_ts']:.1f} ({peer['best']})", ratio]


def _remarks(result: dict[str, Any]) -> list[str]:
    """How the figures were made, and reasons to doubt them."""
    made = result["made_with"]
    how = f"{made['n_threads']} threads, {made['repetitions']} repetitions in turn"
    lines = [
        f"{made['cpu']}, {how}, Pyroclast {made['commit']}, {made['date']}.",
        "Ratios above 1: Pyroclast is faster; medians over the repetitions.",
    ]
    lines += [f"{name}: {about['version']}." for name, about in made["peers"].items()]
    lines += [f"Absent: {name}: {reason}." for name, reason in made["absent"].items()]
    lines += [f"Warning: {warning}." for warning in made["warnings"]]
    return lines
