"""Times the tiles that products of a step could take on this GPU, and keeps those that win.

A product is timed as it runs: all launches of its shape in the step one after the other, with the
weights of all layers, as a CUDA graph.  Tiles take turns (A B A B), so that a GPU whose clock falls
slows all alike.  One that gives other bits than the default is left out.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import triton

from pyroclast_kernels.gpu.bounds import Bounds, bounds_of
from pyroclast_kernels.gpu.program import DeviceProgram
from pyroclast_kernels.triton import choices as triton_choices
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.choices import TiledProduct, TileTable

MIN_GAIN = 0.03  # what a tile must save before it stands in for the default
N_ROUNDS = 9
_LEAST_US = 200.0  # of one interval between events; short rows of launches are repeated in it
_MOST_REPEATS = 64

Timer = Callable[[Callable[[], None]], float]  # -> microseconds


@dataclass
class Subject:
    """A product, its tiles (the default first), what the first of its launches writes, and all of
    its launches in a step of n_tokens sequences."""

    product: TiledProduct
    tiles: Sequence[Any]
    results: Sequence[Any]
    n_tokens: int = 0
    launches: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class TileChoice:
    """What was chosen for a product.  ratios: median time over the default's, tile by tile, NaN
    for one that has other bits or does not compile."""

    product: TiledProduct
    tiles: Sequence[Any]
    ratios: tuple[float, ...]
    default_us: float

    @property
    def chosen(self) -> int:
        """The number of the winning tile; 0 where the default stays."""
        known = [math.inf if math.isnan(ratio) else ratio for ratio in self.ratios]
        best = min(range(len(known)), key=known.__getitem__)
        return best if known[best] < 1 - MIN_GAIN else 0


def tune(
    program: DeviceProgram, show: Callable[[int], None], timer: Timer | None = None
) -> Iterator[TileChoice]:
    """The outcome for each product in steps of decoding; show(percent) is told how far it is.
    Overwrites what the program's batch and cache hold."""
    found = list(subjects(program).values())
    for n, subject in enumerate(found, 1):
        _step(program, subject.n_tokens)
        yield _outcome(subject, program, timer or _device_us)
        show(100 * n // len(found))


def subjects(program: DeviceProgram) -> dict[TiledProduct, Subject]:
    """The products of the program's steps of decoding that have several tiles."""
    found: dict[TiledProduct, Subject] = {}
    most = min(program.batch.max_seqs, program.batch.max_logits, program.batch.max_batch_tokens)
    for n_tokens in sorted({min(n, most) for n in triton_choices.TOKENS}):
        bounds = _step(program, n_tokens)
        for _, launch in program.units(bounds):
            for subject in _chosen_in(launch):
                known = found.setdefault(subject.product, subject)
                if known.n_tokens in (0, n_tokens):
                    known.n_tokens = n_tokens
                    known.launches.append(launch)
    return {product: subject for product, subject in found.items() if len(subject.tiles) > 1}


def _chosen_in(launch: Callable[[], None]) -> list[Subject]:
    seen: list[Subject] = []

    def note(product: TiledProduct, tiles: Sequence[Any], results: Sequence[Any]) -> None:
        seen.append(Subject(product, tiles, results))

    with triton_choices.noting(note):
        launch()
    return seen


def _step(program: DeviceProgram, n_tokens: int) -> Bounds:
    """Runs a step in which that many sequences have their first token, and returns its bounds."""
    batch, n = program.batch, n_tokens
    batch.token_ids[:n], batch.positions[:n] = range(n), 0
    batch.logit_rows[:n] = batch.seq_index[:n] = range(n)
    batch.seq_starts[: n + 1] = range(n + 1)
    batch.block_tables[:n] = 0
    batch.counts[:] = n
    program.run()
    return bounds_of(batch, program.max_seq_len)


def _outcome(subject: Subject, program: DeviceProgram, timer: Timer) -> TileChoice:
    product = subject.product
    wanted = _bits(subject, subject.tiles[0])
    replays: list[Callable[[], None] | None] = []
    for tile in subject.tiles:
        right = tile is subject.tiles[0] or _same(_bits(subject, tile), wanted)
        replays.append(_captured(subject, tile, program) if right else None)
    times: list[list[float]] = [[] for _ in replays]
    for i in range(N_ROUNDS):
        order = range(len(replays)) if i % 2 == 0 else reversed(range(len(replays)))
        for k in order:
            replay = replays[k]
            if replay is not None:
                times[k].append(timer(replay))
    ratios = [_ratio(each, times[0]) for each in times]
    default_us = statistics.median(times[0]) / len(subject.launches)
    return TileChoice(product, subject.tiles, tuple(ratios), default_us)


def _ratio(times: list[float], defaults: list[float]) -> float:
    """The median ratio over the rounds; NaN for a tile that was not timed."""
    ratios = [a / b for a, b in zip(times, defaults, strict=False)]
    return statistics.median(ratios) if ratios else math.nan


def _bits(subject: Subject, tile: Any) -> list[Any] | None:
    """What the first launch writes with that tile over the results' earlier content; None if the
    kernel does not compile."""
    before = [tensor.clone() for tensor in subject.results]
    try:
        with triton_choices.trying(subject.product, tile):
            subject.launches[0]()
        found = [tensor.clone() for tensor in subject.results]
    except (RuntimeError, triton.TritonError):  # too much shared memory, say
        return None
    finally:
        for tensor, old in zip(subject.results, before, strict=True):
            tensor.copy_(old)
    return found


def _same(found: list[Any] | None, wanted: list[Any] | None) -> bool:
    if found is None or wanted is None:
        return False
    pairs = zip(found, wanted, strict=True)
    return all(torch.equal(_integers(a), _integers(b)) for a, b in pairs)


def _integers(tensor: Any) -> Any:
    """The bits as integers, among which a NaN equals itself."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    return tensor.view(kinds[tensor.element_size()])


def _captured(subject: Subject, tile: Any, program: DeviceProgram) -> Callable[[], None]:
    """A CUDA graph of all launches of the product with that tile, repeated until it is long enough
    to time."""
    repeats = 1

    def launch() -> None:
        with triton_choices.trying(subject.product, tile):
            for _ in range(repeats):
                for each in subject.launches:
                    each()

    if not triton_device.INTERPRETED:
        launch()
        repeats = max(1, min(_MOST_REPEATS, int(_LEAST_US / _device_us(launch))))
    return program.replays.capture(launch)


def _device_us(replay: Callable[[], None]) -> float:
    if triton_device.INTERPRETED:
        start = time.perf_counter_ns()
        replay()
        return (time.perf_counter_ns() - start) / 1000
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    replay()
    end.record()
    end.synchronize()
    return 1000 * float(begin.elapsed_time(end))


def table_of(outcomes: Sequence[TileChoice], made: dict[str, Any]) -> TileTable:
    """A table of the winners, and of the present table's entries for other products."""
    present = triton_choices.current()[0]
    table = present or TileTable(triton_choices.fingerprint(), triton_choices.build_id(), {})
    tiles, ratios = dict(table.tiles), dict(table.ratios)
    for outcome in outcomes:
        tiles.pop(outcome.product, None)
        ratios.pop(outcome.product, None)
        if outcome.chosen:
            tiles[outcome.product] = asdict(outcome.tiles[outcome.chosen])
            ratios[outcome.product] = outcome.ratios[outcome.chosen]
    return replace(table, tiles=tiles, ratios=ratios, made=made)
