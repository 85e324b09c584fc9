"""Replays the last step of a generation: the whole step, then each op alone under every variant.

"Alone" runs only the calls of that op, one after the other, on their recorded arguments, so each
still reads the weights of every layer.  An op is slower inside the step than alone because the data
of other ops evict its own from the caches.  The time of a call is that from the begin of its first
part to the end of its last, in the fastest of a few runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.lab.profile.breakdown import op_name, split
from pyroclast.lab.profile.record import Recorded
from pyroclast.lab.tune.steps import bind, recorded_runs
from pyroclast_kernels.program import OpCall, Program
from pyroclast_kernels.selection import Kernel, all_variants
from pyroclast_kernels.timeline import TimelineRun
from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]
_SECONDS = 0.4  # for one op under one variant
_ROUNDS = (3, 15)  # at least, at most
# The reference makes float32 copies of a weight; beyond this many values that is too much.
_MOST_VALUES = 48 << 20


@dataclass(frozen=True)
class Alone:
    """One op under one variant: microseconds per step, or the reason why there are none.  n_calls:
    how many of the step's n_in_step calls ran; the time is scaled to all of them."""

    op: str
    variant: str
    us: float | None
    n_calls: int
    chosen: bool
    reason: str = ""
    n_in_step: int = 0

    @property
    def scaled(self) -> bool:
        """Whether fewer calls ran than the step has."""
        return 0 < self.n_calls < self.n_in_step


@dataclass(frozen=True)
class Replayed:
    """step: the fastest replay of the whole step.  alone: every op under every variant."""

    step: TimelineRun
    alone: tuple[Alone, ...]

    def in_step(self) -> dict[str, float]:
        """Microseconds of each op within the step."""
        found: dict[str, float] = {}
        for call, ns in zip(self.step.program.calls, _own(self.step).tolist(), strict=True):
            found[op_name(call)] = found.get(op_name(call), 0.0) + ns / 1000
        return found


def replay(program: Program, on_done: Callable[[int], None] = lambda _: None) -> Replayed:
    """Runs the program and its ops on the present batch.  on_done(n): n ops are done."""
    step = _fastest(recorded_runs([program], _rounds(program))[0])
    alone: list[Alone] = []
    names = dict.fromkeys(map(op_name, program.calls))
    for i, name in enumerate(names):
        alone += _replay_op(program, name, step)
        on_done(i + 1)
    return Replayed(step, tuple(alone))


def n_ops(program: Program) -> int:
    """The number that on_done counts to."""
    return len(set(map(op_name, program.calls)))


def explain(recorded: Recorded, replayed: Replayed) -> list[dict[str, Any]]:
    """What makes up the time of a decoded token, starting from the ops alone; microseconds that add
    up.  If nothing was decoded, what makes up the replayed step."""
    step, times = replayed.step, replayed.step.calls()
    alone = sum(a.us for a in replayed.alone if a.chosen and a.us is not None)
    own = float(_own(step).sum()) / 1000
    chain = [
        ("the ops alone", alone),
        ("cache misses between ops", own - alone),
        ("between calls (barriers)", float((times.first_ns - times.begin_ns).sum()) / 1000),
        ("return", (step.end_ns - int(times.end_ns[-1])) / 1000),
    ]
    prefill, decode = split(recorded)
    if decode and decode[-1].n_tokens == 1:
        n, start = len(decode), prefill[-1].span.end_ns
        runs = sum(s.run.wall_ns for s in decode) / n / 1000
        spans = sum(s.span.ns for s in decode) / n / 1000
        texts = sum(t.ns for t in recorded.texts if t.begin_ns >= start) / n / 1000
        whole = (recorded.end_ns - start) / n / 1000
        chain += [
            ("real steps instead of replays", runs - step.wall_ns / 1000),
            ("step entry", spans - runs),
            ("detokenizer", texts),
            ("Python between steps", whole - spans - texts),
        ]
    return [{"what": what, "us": us} for what, us in chain]


# ---- inside --------------------------------------------------------------------------------


def _own(run: TimelineRun) -> Array:
    times = run.calls()
    return np.asarray(times.end_ns - times.first_ns)


def _fastest(runs: Sequence[TimelineRun]) -> TimelineRun:
    return min(runs, key=lambda run: run.wall_ns)


def _rounds(program: Program) -> int:
    start = time.perf_counter()
    program.run()
    seconds = max(time.perf_counter() - start, 1e-6)
    return int(min(max(_ROUNDS[0], _SECONDS / seconds), _ROUNDS[1]))


def _replay_op(program: Program, name: str, step: TimelineRun) -> list[Alone]:
    calls = [call for call in program.calls if op_name(call) == name]
    op, format = calls[0].kernel.op, calls[0].kernel.format
    chosen = {call.running().variant for call in calls}
    programs = {"": Program(calls, program.executor)}
    found: list[Alone] = []
    for variant in all_variants(op).values():
        if variant.launch is not None:
            reason = "runs on a GPU: `pyroclast bench kernels` times it there"
            found.append(Alone(name, variant.name, None, 0, False, variant.unavailable or reason))
            continue
        kernel, reason = bind(op, format, variant.name)
        if kernel is None:
            found.append(Alone(name, variant.name, None, 0, False, reason))
        elif kernel.function is not None:
            found.append(_python(calls, name, kernel, step, chosen))
        else:
            under = [call.under(kernel) for call in calls]
            programs[variant.name] = Program(under, program.executor)
    native = {n: p for n, p in programs.items() if p.calls[0].kernel.function is None}
    if native:
        rounds = min(map(_rounds, native.values()))
        runs = recorded_runs(list(native.values()), rounds)
        us = [float(_own(_fastest(each)).sum()) / 1000 for each in runs]
        for variant_name, microseconds in zip(native, us, strict=True):
            is_chosen = variant_name == ("" if len(chosen) > 1 else next(iter(chosen)))
            shown = variant_name or "+".join(sorted(chosen))
            if variant_name or len(chosen) > 1:
                found.append(Alone(name, shown, microseconds, len(calls), is_chosen))
    return sorted(found, key=lambda a: (a.us is None, a.us or 0.0))


def _python(
    calls: Sequence[OpCall], name: str, kernel: Kernel, step: TimelineRun, chosen: set[str]
) -> Alone:
    """Times a Python function, which may take seconds: the calls of the first layer with the op run
    once, and their time is scaled by their share of all of the op's calls in the step."""
    assert kernel.function is not None, "compiled kernels run in a program"
    first = [call for call in calls if call.label == calls[0].label]
    largest = max((_n_values(call) for call in first), default=0)
    if largest > _MOST_VALUES:
        reason = f"its float32 copies of a weight would take {largest >> 18} MB each"
        return Alone(name, kernel.variant, None, 0, False, reason)
    own = dict(zip(map(id, step.program.calls), _own(step).tolist(), strict=True))
    scale = sum(own[id(c)] for c in calls) / max(sum(own[id(c)] for c in first), 1)
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        for call in first:
            kernel.function(**call.arguments)
    us = (time.perf_counter() - start) * 1e6 * scale
    is_chosen = kernel.variant in chosen
    return Alone(name, kernel.variant, us, len(first), is_chosen, n_in_step=len(calls))


def _n_values(call: OpCall) -> int:
    """The number of values in the call's weight; 0 if the op does not read all of them."""
    weight = call.arguments.get("weight")
    whole = isinstance(weight, PackedWeight) and call.kernel.op in ("matmul", "gate_up")
    return weight.n_rows * weight.n_cols if whole and isinstance(weight, PackedWeight) else 0
