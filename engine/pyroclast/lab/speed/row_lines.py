"""Prints rows as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyroclast.lab.speed.rows import BROKEN, Results, Row, threads

_HEAD = (
    f"  {'variant':<18} {'cold us':>11} {'warm us':>11}  {'GB/s':>6} {'GFLOP/s':>8}  "
    f"{'of limit':>10}  {'x NumPy':>8}  {'error':>8}"
)


def case_lines(rows: Sequence[Row]) -> Iterator[str]:
    """A title, and a line for each variant of one case.  Speeds and shares are of cold runs."""
    if not rows:
        return
    first = rows[0]
    yield f"{first.op}.{first.format} {first.case}, {threads(first.n_threads)}"
    yield _HEAD
    for variant in dict.fromkeys(row.variant for row in rows):
        mine = {row.cache: row for row in rows if row.variant == variant}
        yield from _variant_lines(mine["cold"], mine["warm"])
    yield ""


def _variant_lines(cold: Row, warm: Row) -> Iterator[str]:
    if cold.status == "unsupported":
        return  # `pyroclast kernels` and the JSON say why
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
    """The machine and its ceilings, then what failed."""
    made = results.environment
    yield f"{made['cpu']}, numpy {made['numpy']}, pyroclast {made['commit']}, table {made['table']}"
    for ceiling in results.ceilings:
        size = f" of {ceiling.n_bytes >> 20} MiB" if ceiling.n_bytes else ""
        of = threads(ceiling.n_threads) if ceiling.n_threads else "GPU"
        yield f"  ceiling {ceiling.kind}{size}, {of}: {ceiling.value:.1f} {ceiling.unit}"
    drifted = [row for row in results.rows if row.status == "drifted"]
    if drifted:
        yield f"drifted: {len(drifted)} of {len(results.rows)} rows, as the machine was busy"
    for status in BROKEN:
        names = {f"{r.op}.{r.format}={r.variant}" for r in results.rows if r.status == status}
        if names:
            yield f"{status}: {', '.join(sorted(names))}"
