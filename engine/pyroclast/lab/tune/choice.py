"""Which variant of one class of calls wins, judged from measured blocks.

A challenger must win clearly: by MIN_GAIN and by more than the noise, in two blocks of three.  The
choice of the present table stays unless it is slower than the default, so choices do not flip from
run to run.  A gain below MIN_STEP_GAIN of the whole step does not enter the table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass

MIN_GAIN = 0.03
MIN_STEP_GAIN = 0.0005  # of a whole step: what gains less is not worth an entry that may flip
NOISE_FACTOR = 2.0  # of the default's median deviation from itself


@dataclass(frozen=True)
class CallClass:
    """A class of calls that one choice is made for.  groups: variant -> bit group, the default
    included."""

    op: str
    format: str
    shape: str
    default: str
    groups: Mapping[str, str] = field(hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.op}.{self.format} {self.shape}"


@dataclass(frozen=True)
class Block:
    """Times of one block, in any unit: the default's twice, each challenger's, and that of the
    whole step."""

    default: Mapping[CallClass, float]
    again: Mapping[CallClass, float]
    others: Mapping[str, Mapping[CallClass, float]]
    step: float


Measured = Mapping[TokenClass, Sequence[Block]]


@dataclass(frozen=True)
class Choice:
    """What was measured and chosen for one class of calls and one token class.

    ratios: variant -> its time over the default's; noise: how far two times of the default were
    apart; reason: why the fastest was not taken."""

    call_class: CallClass
    tokens: TokenClass
    chosen: str
    share: float
    noise: float
    ratios: Mapping[str, float]
    reason: str

    def entry(self) -> Entry:
        call_class = self.call_class
        return Entry(
            call_class.op,
            call_class.format,
            call_class.shape,
            self.tokens,
            self.chosen,
            call_class.default,
            round(self.ratios.get(self.chosen, 1.0), 4),
        )


class Judge:
    """The measurements of one class of calls in one token class, and what they prove."""

    def __init__(self, call_class: CallClass, blocks: Sequence[Block], incumbent: str) -> None:
        self.call_class, self.incumbent = call_class, incumbent
        base = [(block.default[call_class] + block.again[call_class]) / 2 for block in blocks]
        self.share = statistics.median(b / x.step for b, x in zip(base, blocks, strict=True))
        self.noise = statistics.median(
            abs(block.again[call_class] / block.default[call_class] - 1) for block in blocks
        )
        self._ratios = {
            name: sorted(
                block.others[name][call_class] / b for b, block in zip(base, blocks, strict=True)
            )
            for name in call_class.groups
            if name != call_class.default and all(name in block.others for block in blocks)
        }
        self.ratios = {name: statistics.median(each) for name, each in self._ratios.items()}

    def holds(self, name: str) -> bool:
        """Whether the variant is at least as fast as the default."""
        return name == self.call_class.default or self.ratios.get(name, 9.0) <= 1.0

    def wins(self, name: str) -> bool:
        """Whether the variant is clearly faster than the default; the incumbent need not be."""
        if name not in self.ratios:
            return False
        if name == self.incumbent:
            return self.holds(name)
        least = max(MIN_GAIN, NOISE_FACTOR * self.noise)
        most_blocks = self._ratios[name][2 * len(self._ratios[name]) // 3]
        matters = self.share * (1 - self.ratios[name]) >= MIN_STEP_GAIN
        return matters and self.ratios[name] < 1 - least and most_blocks < 1 - least / 2

    def ratio(self, name: str) -> float:
        return 1.0 if name == self.call_class.default else self.ratios[name]

    def best(self, names: Iterable[str]) -> str | None:
        """The winner: the incumbent, unless another one is clearly faster; None if none wins."""
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
    call_class: CallClass,
    measured: Measured,
    incumbents: Mapping[TokenClass, str],
    any_bits: bool,
) -> list[Choice]:
    """The choices for one class of calls, in both token classes: all of one bit group."""
    judges = {
        tokens: Judge(call_class, measured[tokens], incumbents.get(tokens, call_class.default))
        for tokens in TOKEN_CLASSES
        if measured.get(tokens) and call_class in measured[tokens][0].default
    }
    home = call_class.groups[call_class.default]
    groups = list(dict.fromkeys([home, *call_class.groups.values()])) if any_bits else [home]
    found = {group: _choose_in(group, call_class, judges) for group in groups}
    plans = {group: plan for group, plan in found.items() if len(plan) == len(judges)}
    # Another group must gain clearly over the best of the present one, not just over the default.
    present = {call_class.groups.get(judge.incumbent, home) for judge in judges.values()}
    cost = {
        group: sum(judges[t].ratio(name) for t, name in plan.items())
        + (0 if present == {group} else MIN_GAIN)
        for group, plan in plans.items()
    }
    best = plans[min(cost, key=lambda group: cost[group])]
    return [
        Choice(
            call_class,
            tokens,
            best[tokens],
            judge.share,
            judge.noise,
            judge.ratios,
            _reason(judge, best[tokens], groups),
        )
        for tokens, judge in judges.items()
    ]


def _choose_in(
    group: str, call_class: CallClass, judges: Mapping[TokenClass, Judge]
) -> dict[TokenClass, str]:
    """The best of one bit group in each token class; a class is missing if all of it would lose."""
    names = [name for name, each in call_class.groups.items() if each == group]
    plan: dict[TokenClass, str] = {}
    for tokens, judge in judges.items():
        is_home = group == call_class.groups[call_class.default]
        fallback = call_class.default if is_home else _no_loss(judge, names)
        found = judge.best(names) or fallback
        if found is not None:
            plan[tokens] = found
    return plan


def _no_loss(judge: Judge, names: Sequence[str]) -> str | None:
    """The fastest that does not lose, for a token class that follows the other into its group."""
    holding = [name for name in names if name in judge.ratios and judge.holds(name)]
    return min(holding, key=judge.ratio, default=None)


def _reason(judge: Judge, chosen: str, groups: Sequence[str]) -> str:
    """Why a variant that measured faster was not taken; empty if there is none."""
    faster = [n for n in judge.ratios if judge.ratio(n) < judge.ratio(chosen)]
    if not faster:
        return ""
    name = min(faster, key=judge.ratio)
    if judge.call_class.groups[name] not in groups:
        return f"{name} gives other bits (--any-bits)"
    if judge.share * (1 - judge.ratio(name)) < MIN_STEP_GAIN:
        return f"{name} gains less than {MIN_STEP_GAIN:.2%} of a step"
    return f"{name} is not clearly faster"
