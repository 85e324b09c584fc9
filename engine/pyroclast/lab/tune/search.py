"""Chooses the fastest variant for each op, format, shape class and token class: a tuned table.

What is measured is a model's real step, not an op alone.  The same step runs under the default
variants and under each challenger in turn (A B A B), while the executor records every part.  So
weights come from memory as they do in use, and a busy neighbour slows both sides alike.  Each block
of such rounds gives one ratio.  A block also holds the default twice, which shows the noise.

Chosen variants have passed the op's case list, and within a bit group the logits of the whole step
are identical.  Across groups (any_bits) one group is chosen for few and many tokens together, so
bits never depend on the number of tokens in a step.  At the end, whole steps run under the table
and under the defaults; a table that loses is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pyroclast.lab.tune.choice import NOISE_FACTOR, CallClass, Choice, Measured, choose
from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass, TunedTable

MAX_LOSS = 0.01  # of a whole step under a table, before the table is dropped
N_BLOCKS = 8


@dataclass(frozen=True)
class Ratio:
    """The ratio of two times over some blocks.  median; least: two blocks of three exceed it;
    noise: how far two times of the denominator were apart."""

    median: float
    least: float
    noise: float

    @property
    def is_loss(self) -> bool:
        return self.least > 1 + max(MAX_LOSS, NOISE_FACTOR * self.noise)


@dataclass(frozen=True)
class Verdict:
    """A whole step under the table over the same step under the defaults.  busy: the sum of its
    parts' times; wall: the time that passes, which says little on a busy machine."""

    tokens: TokenClass
    busy: Ratio
    wall: Ratio

    @property
    def holds(self) -> bool:
        return not (self.busy.is_loss or self.wall.is_loss)


@dataclass(frozen=True)
class TuneResult:
    """What a run of the tuner found.  All entries are the defaults if a verdict fails."""

    entries: tuple[Entry, ...]
    choices: tuple[Choice, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts)


class StepBench(Protocol):
    """What the tuner measures with; model.py has the real one."""

    @property
    def call_classes(self) -> Sequence[CallClass]: ...
    def measure(self, n_blocks: int) -> Measured: ...
    def verify(self, entries: Sequence[Entry], n_blocks: int) -> Sequence[Verdict]: ...


def tune(
    bench: StepBench,
    present: TunedTable | None,
    *,
    any_bits: bool = False,
    n_blocks: int = N_BLOCKS,
) -> TuneResult:
    """Measures, chooses and verifies.  present: the table in force, whose choices stay unless they
    lose."""
    measured = bench.measure(n_blocks)
    choices: list[Choice] = []
    for call_class in bench.call_classes:
        choices += choose(call_class, measured, _incumbents(call_class, present), any_bits)
    entries = tuple(choice.entry() for choice in choices)
    if all(entry.variant == entry.default for entry in entries):
        return TuneResult(entries, tuple(choices), ())
    result = TuneResult(entries, tuple(choices), tuple(bench.verify(entries, n_blocks)))
    if result.holds:
        return result
    defaults = tuple(replace(e, variant=e.default, ratio=1.0) for e in entries)
    return replace(result, entries=defaults)


def _incumbents(call_class: CallClass, present: TunedTable | None) -> dict[TokenClass, str]:
    """The present table's choices for a class of calls."""
    if present is None:
        return {}
    found = {
        t: present.variant(call_class.op, call_class.format, call_class.shape, t)
        for t in TOKEN_CLASSES
    }
    return {tokens: name for tokens, name in found.items() if name is not None}


def merged(present: TunedTable | None, new: TunedTable) -> TunedTable:
    """The new table, with the present entries for what was not measured this time.  A table for
    other bits is not merged."""
    if present is None or present.any_bits != new.any_bits:
        return new
    known = {entry.key for entry in new.entries}
    kept = [entry for entry in present.entries if entry.key not in known]
    entries = sorted((*kept, *new.entries), key=lambda entry: entry.key)
    return TunedTable(new.cpu, new.build, tuple(entries), new.any_bits, new.made)
