"""Which variant is fastest here, per op, format, shape class and token class: makes a tuned table.

Measured is a model's real step, not an op alone: the same step under the default variants and under
each challenger in turn (A B A B), with the executor's own record of every part; so weights come
from memory as they do in use, and a neighbour on the machine slows both alike.  Each block of such
rounds gives one ratio; a block also holds the default a second time, which shows what noise alone
does.

A challenger must win clearly: by MIN_GAIN and by more than the noise, in two blocks of three.  The
table's present choice keeps its place while it is not slower than the default; so a choice does not
flip from run to run.  What gains less than MIN_STEP_GAIN of a whole step does not enter.

Chosen variants have passed the op's case list, and inside a bit group the logits of the whole step
have identical bits.  Across groups (any_bits) one group is chosen for few and many tokens together,
so that bits never depend on the number of tokens in a step.  At the end whole steps are run under
the table and under the defaults: a table that loses is dropped.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass, TunedTable

MIN_GAIN = 0.03
MIN_STEP_GAIN = 0.0005  # of a whole step: what gains less is not worth an entry that may flip
NOISE_FACTOR = 2.0  # of the default's median deviation from itself
MAX_LOSS = 0.01  # of a whole step under a table, before the table is dropped
N_BLOCKS = 8


@dataclass(frozen=True)
class Subject:
    """What a choice is made for.  groups: variant -> bit group, the default among them."""

    op: str
    format: str
    shape: str
    default: str
    groups: Mapping[str, str] = field(hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.op}.{self.format} {self.shape}"


@dataclass(frozen=True)
class Block:
    """Times of one block, in any unit: of the default twice, then of each challenger; and the
    whole step's."""

    default: Mapping[Subject, float]
    again: Mapping[Subject, float]
    others: Mapping[str, Mapping[Subject, float]]
    step: float


Measured = Mapping[TokenClass, Sequence[Block]]


@dataclass(frozen=True)
class Ratio:
    """Of two times, over some blocks: the median, what two blocks of three exceed, and how far the
    time below the line was from itself."""

    median: float
    least: float
    noise: float

    @property
    def is_loss(self) -> bool:
        return self.least > 1 + max(MAX_LOSS, NOISE_FACTOR * self.noise)


@dataclass(frozen=True)
class Verdict:
    """A whole step under a table over the same step under the defaults: the time of its parts
    together, and the time that passes, which says little on a busy machine."""

    tokens: TokenClass
    busy: Ratio
    wall: Ratio

    @property
    def holds(self) -> bool:
        return not (self.busy.is_loss or self.wall.is_loss)


@dataclass(frozen=True)
class Result:
    """What a run of the tuner found.  entries are the defaults throughout if a verdict fails."""

    entries: tuple[Entry, ...]
    outcomes: tuple[Outcome, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts)


class Bench(Protocol):
    """What can be measured; steps.py and lab/tune/model.py have the real one."""

    @property
    def subjects(self) -> Sequence[Subject]: ...
    def measure(self, n_blocks: int) -> Measured: ...
    def verify(self, entries: Sequence[Entry], n_blocks: int) -> Sequence[Verdict]: ...


@dataclass(frozen=True)
class Outcome:
    """One subject and token class: what was measured and what was chosen.  ratios: variant -> time
    over the default's; noise: how far the default was from itself; reason: why not the fastest."""

    subject: Subject
    tokens: TokenClass
    chosen: str
    share: float
    noise: float
    ratios: Mapping[str, float]
    reason: str

    def entry(self) -> Entry:
        subject = self.subject
        return Entry(
            subject.op,
            subject.format,
            subject.shape,
            self.tokens,
            self.chosen,
            subject.default,
            round(self.ratios.get(self.chosen, 1.0), 4),
        )


class Judge:
    """The evidence about one subject in one token class."""

    def __init__(self, subject: Subject, blocks: Sequence[Block], incumbent: str) -> None:
        self.subject, self.incumbent = subject, incumbent
        base = [(block.default[subject] + block.again[subject]) / 2 for block in blocks]
        self.share = statistics.median(b / x.step for b, x in zip(base, blocks, strict=True))
        self.noise = statistics.median(
            abs(block.again[subject] / block.default[subject] - 1) for block in blocks
        )
        self._ratios = {
            name: sorted(
                block.others[name][subject] / b for b, block in zip(base, blocks, strict=True)
            )
            for name in subject.groups
            if name != subject.default and all(name in block.others for block in blocks)
        }
        self.ratios = {name: statistics.median(each) for name, each in self._ratios.items()}

    def holds(self, name: str) -> bool:
        """Whether the variant is no loss."""
        return name == self.subject.default or self.ratios.get(name, 9.0) <= 1.0

    def wins(self, name: str) -> bool:
        """Whether the variant is clearly better than the default, or is the incumbent and holds."""
        if name not in self.ratios:
            return False
        if name == self.incumbent:
            return self.holds(name)
        least = max(MIN_GAIN, NOISE_FACTOR * self.noise)
        most_blocks = self._ratios[name][2 * len(self._ratios[name]) // 3]
        matters = self.share * (1 - self.ratios[name]) >= MIN_STEP_GAIN
        return matters and self.ratios[name] < 1 - least and most_blocks < 1 - least / 2

    def ratio(self, name: str) -> float:
        return 1.0 if name == self.subject.default else self.ratios[name]

    def best(self, names: Iterable[str]) -> str | None:
        """The fastest winner, the incumbent unless another one is clearly faster than that; None
        where nobody wins."""
        winners = [name for name in names if self.wins(name)]
        if not winners:
            return None
        fastest = min(winners, key=self.ratio)
        if self.incumbent in winners:
            if self.ratio(fastest) > (1 - MIN_GAIN) * self.ratio(self.incumbent):
                return self.incumbent
            return fastest
        # Among equals the first in the fixed order, not the luckiest.
        near = [n for n in winners if self.ratio(n) <= self.ratio(fastest) * (1 + MIN_GAIN)]
        return near[0]


def choose(
    subject: Subject, measured: Measured, incumbents: Mapping[TokenClass, str], any_bits: bool
) -> list[Outcome]:
    """The choice for one subject, in both token classes: all of one bit group."""
    judges = {
        tokens: Judge(subject, measured[tokens], incumbents.get(tokens, subject.default))
        for tokens in TOKEN_CLASSES
        if measured.get(tokens) and subject in measured[tokens][0].default
    }
    home = subject.groups[subject.default]
    groups = list(dict.fromkeys([home, *subject.groups.values()])) if any_bits else [home]
    plans: dict[str, dict[TokenClass, str]] = {}
    for group in groups:
        names = [name for name, each in subject.groups.items() if each == group]
        plan: dict[TokenClass, str] = {}
        for tokens, judge in judges.items():
            fallback = subject.default if group == home else _no_loss(judge, names)
            found = judge.best(names) or fallback
            if found is not None:
                plan[tokens] = found
        if len(plan) == len(judges):
            plans[group] = plan
    # Another group must gain clearly over the best of the present one, not just over the default.
    present = {subject.groups.get(judge.incumbent, home) for judge in judges.values()}
    cost = {
        group: sum(judges[t].ratio(name) for t, name in plan.items())
        + (0 if present == {group} else MIN_GAIN)
        for group, plan in plans.items()
    }
    best = min(cost, key=lambda group: cost[group])
    return [
        Outcome(
            subject,
            tokens,
            plans[best][tokens],
            judge.share,
            judge.noise,
            judge.ratios,
            _reason(judge, plans[best][tokens], groups),
        )
        for tokens, judge in judges.items()
    ]


def _no_loss(judge: Judge, names: Sequence[str]) -> str | None:
    """The fastest that is no loss, for a class that follows the other one into its bit group."""
    holding = [name for name in names if name in judge.ratios and judge.holds(name)]
    return min(holding, key=judge.ratio, default=None)


def _reason(judge: Judge, chosen: str, groups: Sequence[str]) -> str:
    """Why a variant that was measured faster was not taken; empty if none was."""
    faster = [n for n in judge.ratios if judge.ratio(n) < judge.ratio(chosen)]
    if not faster:
        return ""
    name = min(faster, key=judge.ratio)
    if judge.subject.groups[name] not in groups:
        return f"{name} gives other bits (--any-bits)"
    if judge.share * (1 - judge.ratio(name)) < MIN_STEP_GAIN:
        return f"{name} gains less than {MIN_STEP_GAIN:.2%} of a step"
    return f"{name} is not clearly faster"


def tune(
    bench: Bench, present: TunedTable | None, *, any_bits: bool = False, n_blocks: int = N_BLOCKS
) -> Result:
    """Measures, chooses and verifies.  present: the table that is there, whose choices keep their
    places unless they lose."""
    measured = bench.measure(n_blocks)
    outcomes: list[Outcome] = []
    for subject in bench.subjects:
        outcomes += choose(subject, measured, _incumbents(subject, present), any_bits)
    entries = tuple(outcome.entry() for outcome in outcomes)
    if all(entry.variant == entry.default for entry in entries):
        return Result(entries, tuple(outcomes), ())
    result = Result(entries, tuple(outcomes), tuple(bench.verify(entries, n_blocks)))
    if result.holds:
        return result
    defaults = tuple(replace(e, variant=e.default, ratio=1.0) for e in entries)
    return replace(result, entries=defaults)


def _incumbents(subject: Subject, present: TunedTable | None) -> dict[TokenClass, str]:
    """The present table's choices for a subject."""
    if present is None:
        return {}
    found = {
        t: present.variant(subject.op, subject.format, subject.shape, t) for t in TOKEN_CLASSES
    }
    return {tokens: name for tokens, name in found.items() if name is not None}


def merged(present: TunedTable | None, new: TunedTable) -> TunedTable:
    """The new table, with the present one's entries for what was not measured this time; tables
    for other bits than this one's are left behind."""
    if present is None or present.any_bits != new.any_bits:
        return new
    known = {entry.key for entry in new.entries}
    kept = [entry for entry in present.entries if entry.key not in known]
    entries = sorted((*kept, *new.entries), key=lambda entry: entry.key)
    return TunedTable(new.cpu, new.build, tuple(entries), new.any_bits, new.made)
