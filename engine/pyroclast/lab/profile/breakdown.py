"""Where the time of a recorded generation went, in parts that add up.

The caller's time, from the call of generate to its return, is split without gap or overlap:
    tokenizer        text to ids before the first step, ids to text after each token
    python           everything else between steps: scheduling, filling the batch, output
    step entry       from the engine's call of a step to the executor's start, and back
    ops              for each call of a step, from the begin of its first part to the end of its
                     last, on whichever thread; the op `sample` is counted as sampling
    between calls    from the end of a call's last part (the barrier) to the begin of the next
                     call's first part; for a step's first call, waking the other threads
    return           from the end of the last call to the executor's return
Inside a step, each thread either runs a part ("busy") or waits at a barrier ("wait").  A thread
that the operating system took off its core still counts as busy.  `fastest_us` adds up each call at
its fastest over all steps of a phase; the rest of an op's time is what such interruptions cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.lab.profile.record import Recorded, RecordedStep
from pyroclast_kernels.program import OpCall

Array = NDArray[Any]
SAMPLING = "sample"


@dataclass(frozen=True)
class Group:
    """Calls with a common name, and their nanoseconds.  wall: from first begin to last end; busy:
    the sum of all parts; fastest: wall, if every call were as fast as in its fastest step."""

    name: str
    n_calls: int
    wall_ns: int
    busy_ns: int
    fastest_ns: int

    def as_dict(self, whole_ns: int, n_threads: int) -> dict[str, Any]:
        return {
            "name": self.name,
            "n_calls": self.n_calls,
            "wall_us": self.wall_ns / 1000,
            "share": self.wall_ns / whole_ns if whole_ns else 0.0,
            "fastest_us": self.fastest_ns / 1000,
            "busy_us": self.busy_ns / 1000,
            "wait_us": (n_threads * self.wall_ns - self.busy_ns) / 1000,
        }


def op_name(call: OpCall) -> str:
    """The op and format of a call, such as matmul.q8_0."""
    return f"{call.kernel.op}.{call.kernel.format}"


def step_parts(steps: Sequence[RecordedStep]) -> dict[str, int]:
    """Nanoseconds of each part of the steps; they add up to the steps' spans."""
    found = dict.fromkeys(("entry", "ops", "sampling", "between", "return_"), 0)
    for step in steps:
        run, times = step.run, step.run.calls()
        found["entry"] += step.span.ns - run.wall_ns
        found["between"] += int((times.first_ns - times.begin_ns).sum())
        found["return_"] += run.end_ns - int(times.end_ns[-1])
        is_sample = np.array([call.kernel.op == SAMPLING for call in run.program.calls])
        own = times.end_ns - times.first_ns
        found["sampling"] += int(own[is_sample].sum())
        found["ops"] += int(own[~is_sample].sum())
    return found


def groups(steps: Sequence[RecordedStep], key: Callable[[OpCall], str]) -> list[Group]:
    """Calls grouped by key(call), the slowest group first.  All steps run one program."""
    if not steps:
        return []
    times = [step.run.calls() for step in steps]
    own = np.stack([each.end_ns - each.first_ns for each in times])
    busy = np.stack([each.busy_ns for each in times]).sum(axis=0)
    columns = zip(
        steps[0].run.program.calls,
        own.sum(axis=0).tolist(),
        busy.tolist(),
        (own.min(axis=0) * len(steps)).tolist(),
        strict=True,
    )
    names: dict[str, list[int]] = {}
    for call, *numbers in columns:
        found = names.setdefault(key(call), [0, 0, 0, 0])
        for i, number in enumerate((len(steps), *numbers)):
            found[i] += number
    made = [Group(name, *numbers) for name, numbers in names.items()]
    return sorted(made, key=lambda group: -group.wall_ns)


def threads(recorded: Recorded) -> list[dict[str, Any]]:
    """Each thread's time inside steps, busy and waiting; its longest wait between two parts of one
    step."""
    inside = sum(step.run.wall_ns for step in recorded.steps)
    found = []
    for thread in range(recorded.n_threads):
        busy = n_parts = longest = 0
        for step in recorded.steps:
            parts = step.run.parts[step.run.parts["thread"] == thread]
            busy += int((parts["end_ns"] - parts["begin_ns"]).sum())
            n_parts += len(parts)
            ends = np.concatenate([[step.run.begin_ns], parts["end_ns"]])
            begins = np.concatenate([parts["begin_ns"], [step.run.end_ns]])
            longest = max(longest, int((begins - ends).max()))
        found.append(
            {
                "thread": thread,
                "n_parts": n_parts,
                "busy_us": busy / 1000,
                "wait_us": (inside - busy) / 1000,
                "longest_wait_us": longest / 1000,
            }
        )
    return found


def phase(recorded: Recorded, name: str, steps: Sequence[RecordedStep]) -> dict[str, Any]:
    """The steps of prefill or decode, and where their time went."""
    inside, n = sum(step.span.ns for step in steps), recorded.n_threads
    return {
        "phase": name,
        "n_steps": len(steps),
        "n_tokens": sum(step.n_tokens for step in steps),
        "steps_us": inside / 1000,
        "parts_us": {part: ns / 1000 for part, ns in step_parts(steps).items()},
        "ops": [
            group.as_dict(inside, n) | {"variants": _variants(steps, group.name)}
            for group in groups(steps, op_name)
        ],
        "layers": [group.as_dict(inside, n) for group in _layers(steps)],
    }


def _variants(steps: Sequence[RecordedStep], name: str) -> list[str]:
    """The variants that ran for an op, in the first of the steps."""
    calls = steps[0].run.program.calls
    return sorted({steps[0].variant(call) for call in calls if op_name(call) == name})


def _layers(steps: Sequence[RecordedStep]) -> list[Group]:
    """A group for each layer, in the order of the model."""
    found = {group.name: group for group in groups(steps, _label)}
    order = dict.fromkeys(_label(call) for step in steps for call in step.run.program.calls)
    return [found[name] for name in order]


def _label(call: OpCall) -> str:
    return call.label or "sampling"


def split(recorded: Recorded) -> tuple[list[RecordedStep], list[RecordedStep]]:
    """(steps that read the prompt, steps that decode)."""
    n_prompt = len(recorded.completion.prompt_token_ids)
    seen, prefill, decode = 0, list[RecordedStep](), list[RecordedStep]()
    for step in recorded.steps:
        (prefill if seen < n_prompt else decode).append(step)
        seen += step.n_tokens
    return prefill, decode


def breakdown(recorded: Recorded) -> dict[str, Any]:
    """The whole breakdown in microseconds, fit for JSON.  parts_us add up to wall_us."""
    inside = sum(step.span.ns for step in recorded.steps)
    encode = sum(span.ns for span in recorded.texts if span.name == "encode")
    decode = sum(span.ns for span in recorded.texts if span.name == "decode")
    parts = {
        "tokenizer": encode,
        "detokenizer": decode,
        "python": recorded.wall_ns - inside - encode - decode,
        **step_parts(recorded.steps),
    }
    prefill_steps, decode_steps = split(recorded)
    return {
        "wall_us": recorded.wall_ns / 1000,
        "parts_us": {name: ns / 1000 for name, ns in parts.items()},
        "n_threads": recorded.n_threads,
        "threads": threads(recorded),
        "phases": [
            phase(recorded, "prefill", prefill_steps),
            phase(recorded, "decode", decode_steps),
        ],
    }
