"""Rows as lines of text, for whoever runs the bench in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyroclast.lab.speed.rows import BROKEN, Results, Row

_HEAD = (
    f"  {'variant':<18} {'cold us':>11} {'warm us':>11}  {'GB/s':>6} {'GFLOP/s':>8}  "
    f"{'of limit':>10}  {'x NumPy':>8}  {'error':>8}"
)


def case_lines(rows: Sequence[Row]) -> Iterator[str]:
    """One case: a title, and a line for each variant; speeds and shares are those of cold runs."""
    if not rows:
        return
    first = rows[0]
    threads = "1 thread" if first.n_threads == 1 else f"{first.n_threads} threads"
    yield f"{first.op}.{first.format} {first.case}, {threads}"
    yield _HEAD
    for variant in dict.fromkeys(row.variant for row in rows):
        mine = {row.cache: row for row in rows if row.variant == variant}
        yield from _variant_lines(mine["cold"], mine["warm"])
    yield ""


def _variant_lines(cold: Row, warm: Row) -> Iterator[str]:
    if cold.status == "unsupported":
        return  # `pyroclast kernels` tells why; the JSON does, too
    if cold.median_us is None or warm.median_us is None:
        yield f"  {cold.variant:<18} {cold.status}: {cold.error_message}"
        return
    share = cold.roofline_share
    limit = "-" if share is None else f"{share:.0%} {cold.roofline_limit}"
    ratio = "-" if cold.ratio_to_numpy is None else f"{cold.ratio_to_numpy:.2f}"
    yield (
        f"  {cold.variant:<18} {cold.median_us:>11.2f} {warm.median_us:>11.2f}  "
        f"{_number(cold.gb_s):>6} {_number(cold.gflop_s):>8}  {limit:>10}  {ratio:>8}  "
        f"{_number(cold.max_abs_error):>8}"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def summary_lines(results: Results) -> Iterator[str]:
    """What the rows were made with, and what went wrong."""
    made = results.environment
    yield f"{made['cpu']}, numpy {made['numpy']}, pyroclast {made['commit']}, table {made['table']}"
    for ceiling in results.ceilings:
        size = f" of {ceiling.n_bytes >> 20} MiB" if ceiling.n_bytes else ""
        of = f"{ceiling.n_threads} threads" if ceiling.n_threads else "GPU"
        yield f"  ceiling {ceiling.kind}{size}, {of}: {ceiling.value:.1f} {ceiling.unit}"
    drifted = [row for row in results.rows if row.status == "drifted"]
    if drifted:
        yield f"the machine was too busy for {len(drifted)} of {len(results.rows)} rows: drifted"
    for status in BROKEN:
        names = {f"{r.op}.{r.format}={r.variant}" for r in results.rows if r.status == status}
        if names:
            yield f"{status}: {', '.join(sorted(names))}"
