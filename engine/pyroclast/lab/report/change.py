"""What changed between two sets of results, in speed and in numerics.

A speed counts as changed only beyond its noise bound.  The bound is 5%, or the sum of these where
it is larger:
    both spreads    the distance of the quartiles over the median,
    both drifts     how much slower than at its best the machine was beside the row,
    the anchor      how much the time of the same fixed work differs between the two.
Speeds on two machines are not compared.  Numerics need no bound: the inputs are always the same, so
any difference comes from the code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyroclast.lab.report.data import EngineRow
from pyroclast.lab.speed.rows import BROKEN, Results, Row

_LEAST_BOUND = 0.05
_SAME_ERROR = 1.1  # a smaller ratio of two errors comes from other rounding, not a better method


@dataclass(frozen=True)
class Change:
    """A row that both results have.  ratio: the old time over the new (above 1 is faster); bound:
    the noise bound."""

    old: Row
    new: Row
    ratio: float | None
    bound: float | None
    speed: str  # faster, slower, same, other machine, not timed, no longer timed
    numerics: str  # same, other bits, better, worse, broken, fixed

    @property
    def is_real(self) -> bool:
        """Whether somebody should look at it."""
        marked = self.speed in ("faster", "slower", "no longer timed")
        return marked or self.numerics not in ("same", "other bits")


@dataclass(frozen=True)
class EngineChange:
    """Pyroclast's tokens per second in both results."""

    old: EngineRow
    new: EngineRow
    ratio: float
    bound: float
    speed: str


@dataclass(frozen=True)
class Comparison:
    """All rows that both results have, and how many only one of them has."""

    changes: tuple[Change, ...]
    engines: tuple[EngineChange, ...]
    n_new: int
    n_gone: int

    @property
    def counts(self) -> Counter[str]:
        """How many rows are faster, slower, ..., and how many have numerics worse, broken, ..."""
        speeds = Counter(change.speed for change in self.changes)
        return speeds + Counter(f"numerics {change.numerics}" for change in self.changes)


def compare(
    old: Results, new: Results, old_engines: Sequence[EngineRow], new_engines: Sequence[EngineRow]
) -> Comparison:
    """Compares rows with equal keys; the largest changes come first."""
    rows_before = {row.key: row for row in old.rows}
    is_same_machine = _machine(old) == _machine(new)
    changes = [
        _change(rows_before[row.key], row, is_same_machine)
        for row in new.rows
        if row.key in rows_before
    ]
    changes.sort(key=lambda change: (_rank(change), -_size(change), change.new.key))
    found = [_engine(before, row) for before, row in _pairs(old_engines, new_engines)]
    return Comparison(
        changes=tuple(changes),
        engines=tuple(found),
        n_new=len({row.key for row in new.rows} - set(rows_before)),
        n_gone=len(set(rows_before) - {row.key for row in new.rows}),
    )


def _rank(change: Change) -> int:
    """Broken rows come first, then larger errors, then everything else."""
    return {"broken": 0, "worse": 1}.get(change.numerics, 2)


def _size(change: Change) -> float:
    """How large a real change of speed is, as a factor; 0 for other changes."""
    if change.ratio is None or not change.is_real:
        return 0.0
    return max(change.ratio, 1 / change.ratio)


def _machine(results: Results) -> object:
    """Identifies the CPU."""
    return results.environment.get("cpu_fingerprint")


def _change(old: Row, new: Row, is_same_machine: bool) -> Change:
    numerics = _numerics(old, new)
    if old.median_us is None or new.median_us is None:
        speed = "no longer timed" if old.is_timed and not new.is_timed else "not timed"
        return Change(old, new, None, None, speed, numerics)
    if not is_same_machine:
        return Change(old, new, None, None, "other machine", numerics)
    ratio, bound = old.median_us / new.median_us, noise_bound(old, new)
    return Change(old, new, ratio, bound, verdict(ratio, bound), numerics)


def verdict(ratio: float, bound: float) -> str:
    """faster, slower or same.  A bound of 0.1 needs a ratio above 1.1 or below 1 / 1.1."""
    if ratio > 1 + bound:
        return "faster"
    return "slower" if ratio < 1 / (1 + bound) else "same"


def noise_bound(old: Row, new: Row) -> float:
    """How much of a difference may be noise, as a share."""
    moved = 0.0
    for row in (old, new):
        moved += (row.iqr_us or 0.0) / (row.median_us or 1.0) + max(row.anchor_drift or 0.0, 0.0)
    if old.anchor_us and new.anchor_us:
        ratio = old.anchor_us / new.anchor_us
        moved += max(ratio, 1 / ratio) - 1
    return max(_LEAST_BOUND, moved)


def _numerics(old: Row, new: Row) -> str:
    if new.status in BROKEN or old.status in BROKEN:
        if old.status in BROKEN and new.status in BROKEN:
            return "same"
        return "broken" if new.status in BROKEN else "fixed"
    before, after = (row.error_share for row in (old, new))
    if before is None or after is None:
        return "same"
    if (old.max_abs_error, old.nmse, before) == (new.max_abs_error, new.nmse, after):
        return "same"
    if after > _SAME_ERROR * before:
        return "worse"
    return "better" if before > _SAME_ERROR * after else "other bits"


def _pairs(
    old: Sequence[EngineRow], new: Sequence[EngineRow]
) -> Iterator[tuple[EngineRow, EngineRow]]:
    """Rows of the same test on the same machine; of the same file, where several have them."""
    known = {(row.machine, row.key): row for row in old}
    in_file = {(row.file, row.machine, row.key): row for row in old}
    for row in new:
        before = in_file.get((row.file, row.machine, row.key), known.get((row.machine, row.key)))
        if before is not None:
            yield before, row


def _engine(old: EngineRow, new: EngineRow) -> EngineChange:
    ratio = new.speeds[0].tokens_s / old.speeds[0].tokens_s
    bound = max(_LEAST_BOUND, old.spread + new.spread)
    return EngineChange(old, new, ratio, bound, verdict(ratio, bound))
