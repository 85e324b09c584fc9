"""Writes a recorded generation as a Chrome trace, the JSON that Perfetto and chrome://tracing open.

One track shows the calls of each step.  One shows the calling thread: Python, tokenizer, steps and
parts.  Each other thread has a track with its parts.  Times are microseconds since the call of
generate.  The format is the "Trace Event Format": complete events (ph X) with ts and dur, and
metadata events (ph M) that name process and threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroclast.errors import PyroclastError
from pyroclast.lab.profile.breakdown import op_name
from pyroclast.lab.profile.record import Recorded, RecordedStep
from pyroclast_kernels.whole_file import replacing

PID = 1
# Thread 0 is the process's main thread, whose number is that of the process.  Perfetto would put a
# track numbered 0 on that thread too, and two threads on one track look like damage.
MAIN_TRACK = PID
CALLS_TRACK = 1000  # above the number of any thread, so that it is drawn below them


class TraceFileError(PyroclastError):
    """The trace cannot be written."""


def events(recorded: Recorded) -> Iterator[dict[str, Any]]:
    """All events.  Those of one track nest or follow one another."""
    yield _name("process_name", MAIN_TRACK, "pyroclast")
    yield _name("thread_name", MAIN_TRACK, "Python, thread 0")
    for thread in range(1, recorded.n_threads):
        yield _name("thread_name", MAIN_TRACK + thread, f"thread {thread}")
    yield _name("thread_name", CALLS_TRACK, "calls, barrier to barrier")
    origin = recorded.begin_ns
    yield _event("generate", "python", MAIN_TRACK, origin, recorded.end_ns, origin, {})
    for span in recorded.texts:
        name = "text to ids" if span.name == "encode" else "ids to text"
        yield _event(name, "tokenizer", MAIN_TRACK, span.begin_ns, span.end_ns, origin, {})
    for number, step in enumerate(recorded.steps):
        args = {"step": number, "n_tokens": step.n_tokens}
        yield _event(
            "step", "python", MAIN_TRACK, step.span.begin_ns, step.span.end_ns, origin, args
        )
        yield from _calls(step, number, origin)
        yield from _parts(step, number, origin)


def _calls(step: RecordedStep, number: int, origin: int) -> Iterator[dict[str, Any]]:
    times, calls = step.run.calls(), step.run.program.calls
    columns = zip(
        calls, times.begin_ns.tolist(), times.end_ns.tolist(), times.busy_ns.tolist(), strict=True
    )
    for call, begin, end, busy in columns:
        args = {"label": call.label, "variant": step.variant(call), "step": number}
        args["busy_us"] = busy / 1000
        yield _event(op_name(call), "call", CALLS_TRACK, begin, end, origin, args)


def _parts(step: RecordedStep, number: int, origin: int) -> Iterator[dict[str, Any]]:
    calls = step.run.program.calls
    for _, index, part, thread, begin, end in step.run.parts.tolist():
        call = calls[index]
        args = {"label": call.label, "part": part, "step": number}
        yield _event(op_name(call), "part", MAIN_TRACK + thread, begin, end, origin, args)


def _event(
    name: str, category: str, track: int, begin: int, end: int, origin: int, args: dict[str, Any]
) -> dict[str, Any]:
    times = {"ts": (begin - origin) / 1000, "dur": (end - begin) / 1000}
    found = {"name": name, "cat": category, "ph": "X", **times, "pid": PID, "tid": track}
    return {**found, "args": args}


def _name(what: str, track: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": PID, "tid": track, "args": {"name": name}}


def write_trace(recorded: Recorded, path: Path, about: dict[str, Any]) -> int:
    """Writes the file and returns the number of events.  TraceFileError if that fails.  about: the
    model, kernels and machine, kept beside the events."""
    n_events = 0
    try:
        with replacing(path) as file:
            head = json.dumps(about)
            file.write(
                f'{{"displayTimeUnit": "ns", "otherData": {head}, "traceEvents": [\n'.encode()
            )
            for event in events(recorded):
                line = json.dumps(event, separators=(",", ":"))
                file.write((",\n" + line if n_events else line).encode())
                n_events += 1
            file.write(b"\n]}\n")
    except OSError as error:
        raise TraceFileError(f"cannot write the trace to {path}: {error.strerror}") from error
    return n_events
