"""A case: one set of inputs of an op, what it must give, how exactly, and what it costs.

Each op's folder lists its cases in cases.py: CASES, small and awkward, for being right, and
BENCH_CASES, the shapes of real models, for being fast.  Tests, benchmarks and the tuner read the
same lists.  The expected result is the NumPy reference's on the same inputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.q8_blocks import BLOCK, LEVELS, Q8_BLOCK, dequantize
from pyroclast_kernels.registry import folder_of, get_op
from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]
Arguments = dict[str, Any]

EPS = float(np.finfo(np.float32).eps)
# Of the scales of two levels; 1 first.
_LEVEL_RATIOS = np.array([1.0, *(a / b for a in LEVELS for b in LEVELS if a != b)])


@dataclass(frozen=True)
class Case:
    """make() gives fresh arguments, the same every time; `outputs` are those that are written.

    bound(arguments, expected) is the largest allowed error of an output, elementwise, and `reason`
    says where it comes from; of records, it is asked for each field, given as a record of that
    field alone.  flops and bytes are those of one call.  rounded is the bound for variants that
    round operands to 16 bits (Variant.rounds), where that is another one.
    """

    op: str
    format: str
    name: str
    make: Callable[[], Arguments]
    outputs: tuple[str, ...]
    bound: Callable[[Arguments, Array], Array | float]
    reason: str
    flops: int = 0
    bytes: int = 0
    rounded: Callable[[Arguments, Array], Array | float] | None = None

    def allowed(self, rounds: bool) -> Callable[[Arguments, Array], Array | float]:
        """The bound of a variant that rounds, or does not round, operands to 16 bits."""
        return self.rounded if rounds and self.rounded is not None else self.bound

    def __str__(self) -> str:
        return f"{self.op}.{self.format}-{self.name}"


@dataclass(frozen=True)
class Mismatch:
    """The worst element of an output that is outside its bound."""

    output: str
    index: tuple[int, ...]
    got: float
    expected: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"{self.output}{list(self.index)} is {self.got!r}, expected {self.expected!r} "
            f"within {self.allowed:.3g}"
        )


def op_cases(op_name: str) -> list[Case]:
    """The cases of one op."""
    module = importlib.import_module(f"pyroclast_kernels.{folder_of(op_name)}.cases")
    return [case for case in module.CASES if case.op == op_name]


def bench_cases(op_name: str) -> list[Case]:
    """The cases of one op that are worth timing."""
    module = importlib.import_module(f"pyroclast_kernels.{folder_of(op_name)}.cases")
    return [case for case in module.BENCH_CASES if case.op == op_name]


def expected(case: Case) -> tuple[Arguments, Arguments]:
    """(the inputs, the arguments after the reference has run on a copy of them)."""
    arguments = case.make()
    after = deepcopy(arguments)
    with np.errstate(all="ignore"):
        get_op(case.op).reference(**after)
    return arguments, after


def mismatches(
    case: Case, before: Arguments, after: Arguments, got: Arguments, rounds: bool = False
) -> list[Mismatch]:
    """The outputs in `got` that lie outside their bounds.  rounds: they come from a variant that
    rounds operands to 16 bits."""
    found: list[Mismatch] = []
    bound = case.allowed(rounds)
    for name in case.outputs:
        if after[name] is None:
            continue
        pairs: list[tuple[str, Array, Array, Array | float]]
        if isinstance(after[name], PackedWeight):
            pairs = [(name, got[name].data, after[name].data, 0.0)]
        elif after[name].dtype == Q8_BLOCK:
            pairs = list(_q8_pairs(name, got[name]))
            if rounds and case.rounded is not None:
                pairs += _q8_rounded(case.rounded, before, name, got[name], after[name])
            else:
                pairs += _q8_alike(name, got[name], after[name])
        elif after[name].dtype.names:
            pairs = list(_field_pairs(bound, before, name, got[name], after[name]))
        else:
            allowed = bound(before, after[name])
            pairs = [(name, got[name], after[name], allowed)]
        found += [m for pair in pairs if (m := _worst(*pair)) is not None]
    return found


def _field_pairs(
    bound: Callable[[Arguments, Array], Array | float],
    before: Arguments,
    name: str,
    got: Array,
    wanted: Array,
) -> Iterator[tuple[str, Array, Array, Array | float]]:
    """A record's fields, each within the case's bound for it: see Case."""
    for field in wanted.dtype.names or ():
        yield f"{name}.{field}", got[field], wanted[field], bound(before, wanted[[field]])


def _q8_pairs(name: str, got: Array) -> Iterator[tuple[str, Array, Array, Array | float]]:
    """The sums of quantized blocks must be those of the values that are there."""
    sums = got["values"].sum(axis=-1, dtype=np.int64)
    yield f"{name}.minus_8_sum", got["minus_8_sum"], -8 * sums, 0.0
    yield f"{name}.minus_128_sum", got["minus_128_sum"], -128 * sums, 0.0
    scaled = got["scale"].astype(np.float64) * sums
    yield f"{name}.sum_scaled", got["sum_scaled"], scaled, 2 * EPS * np.abs(scaled)
    halves = got["values"].reshape(*got.shape, 2, -1).sum(axis=-1, dtype=np.int64)
    scaled = got["scale"][..., None].astype(np.float64) * halves
    yield f"{name}.half_scaled", got["half_scaled"], scaled, 2 * EPS * np.abs(scaled)
    yield f"{name}.minus_4_half_sum", got["minus_4_half_sum"], -4 * halves, 0.0


def _q8_alike(
    name: str, got: Array, wanted: Array
) -> Iterator[tuple[str, Array, Array, Array | float]]:
    """Scales agree to 1e-5, and values may differ by one step, where x / scale is near a tie.
    Where two levels lose all but the same, a block may have the other one's scale: few do, and what
    they stand for agrees to a step.  Values times a scale of NaN stand for nothing."""
    nearest = _LEVEL_RATIOS[_nearest(got["scale"], wanted["scale"])]
    scale = wanted["scale"] * nearest
    yield f"{name}.scale", got["scale"], scale, 1e-5 * np.abs(scale)
    is_other = nearest != 1
    n_others = np.array([is_other.sum()])
    yield f"{name}.blocks of another level", n_others, np.zeros(1), 1 + 0.02 * scale.size
    a, b = (x["values"][is_other] * x["scale"][is_other, None] for x in (got, wanted))
    step = np.maximum(got["scale"], wanted["scale"])[is_other, None]
    yield f"{name}.values at another level", a, b, step
    is_free = (np.isnan(wanted["scale"]) | is_other)[..., None]
    values = np.where(is_free, wanted["values"], got["values"])
    yield f"{name}.values", values, wanted["values"], 1.0
    differ = np.mean(values != wanted["values"])
    yield f"{name}.share of values off by one", np.array([differ]), np.array([0.0]), 0.02


def _nearest(got: Array, wanted: Array) -> Array:
    """Which of _LEVEL_RATIOS is nearest to got / wanted; that of equals where there is no ratio."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = got.astype(np.float64) / wanted
    distances = np.abs(np.where(np.isfinite(ratio), ratio, 1.0)[..., None] - _LEVEL_RATIOS)
    nearest: Array = distances.argmin(axis=-1)
    return nearest


def _q8_rounded(
    bound: Callable[[Arguments, Array], Array | float],
    before: Arguments,
    name: str,
    got: Array,
    wanted: Array,
) -> Iterator[tuple[str, Array, Array, Array | float]]:
    """Compares dequantized blocks where the values themselves may differ by `bound`: the blocks may
    then differ by that and by one quantization step."""
    values = dequantize(wanted)
    step = np.repeat(np.maximum(got["scale"], wanted["scale"]), BLOCK, axis=-1)
    yield f"{name}.values", dequantize(got), values, bound(before, values) + step


def _worst(name: str, got: Array, wanted: Array, allowed: Array | float) -> Mismatch | None:
    """The element that exceeds its bound by most; two NaNs, or two equal infinities, agree, and
    nothing else agrees with them: a bound that grows with the result would allow anything."""
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    limit = np.broadcast_to(np.asarray(allowed, np.float64), b.shape)
    limit = np.where(np.isfinite(b), limit, 0.0)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        excess = np.where(same, -np.inf, np.nan_to_num(np.abs(a - b), nan=np.inf) - limit)
    if not excess.size or not (excess > 0).any():
        return None
    at = np.unravel_index(int(np.argmax(excess)), excess.shape)
    index = tuple(int(i) for i in at)
    return Mismatch(name, index, float(a[at]), float(b[at]), float(limit[at]))
