"""Under the hood: what each op of one step takes, against what the machine can do, and what drafts,
the grammar and the cache spare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.output import Timings
from pyroclast.errors import RequestError
from pyroclast.lens.inside import between, model_of
from pyroclast.lens.one_step import OneStep
from pyroclast.lens.text import Context, some_ids_of
from pyroclast.lens.writing import watched
from pyroclast.model.inspect import check_device
from pyroclast.model.model import Model
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels import ceiling
from pyroclast_kernels.huge_pages import HUGE_PAGE
from pyroclast_kernels.program import OpCall

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_TOKENS = 32
_N_PROFILES = 5
_MIN_READ_BYTES, _MAX_READ_BYTES = 16 << 20, 128 << 20
# Some of those on large pages, which weights lie in, too.
_PATTERNS = [each for each in ceiling.READ_PATTERNS if each.page == HUGE_PAGE][::2]
_rates: dict[tuple[int, int], float] = {}  # (threads, bytes) -> measured GB/s


@dataclass(frozen=True, slots=True)
class OpTime:
    """An op of the step, all its calls together: the median of a few steps.  n_bytes: weights,
    cache and adapter that it reads, None where that is next to nothing.  share: of the streaming
    rate."""

    op: str
    variant: str
    n_calls: int
    time_us: float
    n_bytes: int | None
    share: float | None


@dataclass(frozen=True, slots=True)
class GrammarState:
    """What a grammar leaves: how many tokens it forbids next, and those that it forces."""

    n_forbidden: int
    forced: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hood:
    """One step that computes the last of n_context tokens and draws the next.  read_gb_s: what this
    machine streams from memory on the same threads, None without compiled kernels.  timings: of a
    short answer, with its cached and drafted tokens."""

    n_context: int
    n_threads: int
    step_us: float
    read_gb_s: float | None
    ops: tuple[OpTime, ...]
    timings: Timings
    grammar: GrammarState | None


def hood(
    llm: LLM,
    context: Context,
    params: SamplingParams | None = None,
    *,
    max_tokens: int = 16,
    adapter: str | None = None,
) -> Hood:
    """Where the time of a step after this context goes, on the kernels that run.  KernelError on a
    GPU, where `pyroclast profile` tells."""
    model, ids = model_of(llm), some_ids_of(llm, context)
    check_device(model)
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise RequestError(f"max_tokens must be 1 to {MAX_TOKENS}, got {max_tokens}")
    given = watched(params or SamplingParams(), len(ids), llm.max_seq_len, max_tokens)
    [answer] = llm.generate(ids, given, adapter=adapter)
    step = OneStep(llm, ids, given, adapter)
    runs = [between(llm, step.profile) for _ in range(_N_PROFILES)]
    rate = _read_rate(llm, model)
    times = np.median(np.array(runs), axis=0)
    return Hood(
        n_context=len(ids),
        n_threads=model.n_threads,
        step_us=float(times.sum()),
        read_gb_s=rate,
        ops=_by_op(step, times, len(ids), rate),
        timings=answer.timings,
        grammar=_grammar(llm, given),
    )


def _by_op(
    step: OneStep, times: NDArray[np.float64], n_context: int, rate: float | None
) -> tuple[OpTime, ...]:
    """The calls by op and variant, what takes longest first."""
    groups: dict[tuple[str, str], list[int]] = {}
    calls = step.calls
    for i, call in enumerate(calls):
        kernel = call.kernel
        groups.setdefault((f"{kernel.op}.{kernel.format}", kernel.variant), []).append(i)
    found = []
    for (op, variant), indices in groups.items():
        time_us = float(times[indices].sum())
        n_bytes = sum(_n_bytes(calls[i], n_context, step.slot) for i in indices)
        share = None
        if n_bytes and rate and time_us > 0:
            share = n_bytes / time_us / 1e3 / rate
        found.append(OpTime(op, variant, len(indices), time_us, n_bytes or None, share))
    return tuple(sorted(found, key=lambda each: -each.time_us))


def _n_bytes(call: OpCall, n_context: int, slot: int | None) -> int:
    """The weights, the cached positions or the adapter's numbers that a call reads for one token;
    slot: the adapter's."""
    arguments = call.arguments
    if call.kernel.op == "low_rank":
        rank = 0 if slot is None else int(arguments["ranks"][slot])
        return 4 * rank * int(arguments["n_rows"] + arguments["n_cols"])
    if call.kernel.op == "attention":
        window = arguments["window"] or n_context
        n_positions = min(window, n_context)
        block = arguments["k_cache"][0].nbytes + arguments["v_cache"][0].nbytes
        return int(block * n_positions // arguments["block_size"])
    weight = arguments.get("weight")
    if weight is None or isinstance(weight, np.ndarray) or call.kernel.op == "embed":
        return 0
    if "n_experts" in arguments:
        return int(weight.n_bytes * arguments["n_active"] // arguments["n_experts"])
    return int(weight.n_bytes)


def _read_rate(llm: LLM, model: Model) -> float | None:
    """GB/s of the best of a few streaming reads of as many bytes as the weights have.  Measured
    once for each model size, one read at a time between steps."""
    executor = model.program().executor
    if executor is None or not ceiling.kernels():
        return None
    size = min(max(model.weight_bytes, _MIN_READ_BYTES), _MAX_READ_BYTES)
    key = (model.n_threads, size)
    if key not in _rates:
        meter = ceiling.CeilingMeter(executor, size)
        reads = [meter.reading(pattern)[0] for pattern in _PATTERNS]
        seconds = min(between(llm, partial(_seconds, read)) for _ in range(2) for read in reads)
        _rates[key] = size / seconds / 1e9
    return _rates[key]


def _seconds(read: Callable[[], object]) -> float:
    start_s = perf_counter()
    read()
    return perf_counter() - start_s


def _grammar(llm: LLM, params: SamplingParams) -> GrammarState | None:
    """At the beginning of an answer."""
    matcher = llm._intake.matcher(params)  # noqa: SLF001
    if matcher is None:
        return None
    mask = np.zeros(-(-llm.vocab_size // 32), np.uint32)
    matcher.write_mask(mask.ctypes.data)
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: llm.vocab_size]
    return GrammarState(llm.vocab_size - int(allowed.sum()), tuple(matcher.forced()))
