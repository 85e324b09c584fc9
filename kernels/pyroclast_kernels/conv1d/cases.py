"""Cases of `conv1d`: sequences of one token and of more, tokens whose state is kept, and tails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.conv1d import KINDS
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK


def sequences(counts: tuple[int, ...], *, keep: bool = True) -> tuple[Arguments, int]:
    """(arguments that describe sequences of so many tokens, how many slots they use).  Every third
    sequence begins without a state; every other one ends in the slot in which it began.  keep:
    every third token in between keeps its state."""
    starts = np.cumsum([0, *counts, 0], dtype=np.int32)
    slots_in = np.array([-1 if i % 3 == 1 else i for i in range(len(counts) + 1)], np.int32)
    slots_out = np.full(starts[-1] + 1, -1, np.int32)
    n_slots = len(counts) + 1
    for i, (first, end) in enumerate(pairwise(starts[: len(counts) + 1])):
        for t in range(first, end):
            if t == end - 1 and i % 2 == 0:
                slots_out[t] = i
            elif t == end - 1 or (keep and (t - first) % 3 == 1):
                slots_out[t], n_slots = n_slots, n_slots + 1
    arguments = {
        "n_seqs": np.array([len(counts)]),
        "seq_starts": starts,
        "slots_in": slots_in,
        "slots_out": slots_out,
    }
    return arguments, n_slots


@dataclass(frozen=True)
class _Shape:
    counts: tuple[int, ...]
    n_channels: int
    width: int
    kind: str = "silu"
    bias: bool = False
    quantized: bool = False
    scale: float = 1.0
    keep: bool = True

    def __str__(self) -> str:
        return (
            f"{'+'.join(map(str, self.counts))}x{self.n_channels}w{self.width}-{self.kind}"
            + "-bias" * self.bias
            + "-q8" * self.quantized
            + f"-scale{self.scale:g}" * (self.scale != 1)
        )


def _conv1d(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([*shape.counts, shape.n_channels, shape.width])
    described, n_slots = sequences(shape.counts, keep=shape.keep)
    rows, n = sum(shape.counts) + 1, shape.n_channels
    x_stride = n * (3 if shape.kind == "gated" else 1) + 5

    def normal(*size: int) -> Array:
        return rng.standard_normal(size).astype(np.float32)

    return described | {
        "x": normal(rows, x_stride) * np.float32(shape.scale),
        "weight": normal(shape.width, n),
        "bias": normal(n) if shape.bias else None,
        "state": normal(n_slots, shape.width - 1, n) * np.float32(shape.scale),
        "out": normal(rows, n),
        "out_q8": np.zeros((rows, n // BLOCK), Q8_BLOCK) if shape.quantized else None,
        "n_channels": n,
        "width": shape.width,
        "x_stride": x_stride,
        "kind": KINDS.index(shape.kind),
    }


def _bound(arguments: Arguments, expected: Array) -> Array | float:
    """Of out by the classic bound of a sum, times what follows; states are copies or products."""
    if expected.shape == arguments["state"].shape:
        return EPS * np.abs(expected)
    n, width, absolute = arguments["n_channels"], arguments["width"], dict(arguments)
    factor = 1.1 * np.ones((len(expected), n))  # the steepest slope of silu
    if KINDS[arguments["kind"]] == "gated":
        factor = np.abs(arguments["x"][:, n : 2 * n])
    for name in ("x", "weight", "state"):
        absolute[name] = np.abs(arguments[name])
    sums = _sums(absolute)
    if arguments["bias"] is not None:
        sums = sums + np.abs(arguments["bias"])
    bound: Array = (2 * (width + 2) * factor * sums + 9 * np.abs(expected)) * EPS + 1e-36
    return bound


def _sums(arguments: Arguments) -> Array:
    """The filters' sums on absolute values, a row for each token."""
    n, width, x = arguments["n_channels"], arguments["width"], arguments["x"]
    u = x[:, :n] * (x[:, 2 * n : 3 * n] if KINDS[arguments["kind"]] == "gated" else 1)
    sums: Array = np.zeros_like(u)
    starts = arguments["seq_starts"][: int(arguments["n_seqs"][0]) + 1]
    for slot, (first, end) in zip(arguments["slots_in"], pairwise(starts), strict=False):
        before = arguments["state"][slot] * (slot >= 0)
        whole = np.concatenate([before, u[first:end]])
        for i in range(width):
            sums[first:end] += arguments["weight"][i] * whole[i : i + end - first]
    return sums


def _case(shape: _Shape) -> Case:
    n_values = sum(shape.counts) * shape.n_channels
    return Case(
        op="conv1d",
        format="f32",
        name=str(shape),
        make=lambda: _conv1d(shape),
        outputs=("out", "out_q8", "state"),
        bound=_bound,
        reason="a float32 sum of width + 1 terms; silu as in glu, or two more products",
        flops=(2 * shape.width + (2 if shape.kind == "gated" else 5)) * n_values,
        bytes=4
        * (
            n_values * (4 if shape.kind == "gated" else 2)
            + shape.n_channels * (shape.width + 2 * len(shape.counts) * (shape.width - 1))
        ),
    )


CASES = [
    _case(_Shape((1,), 1, 2)),
    _case(_Shape((5, 1, 4, 2), 45, 4, bias=True)),
    _case(_Shape((3, 2, 7), 160, 3, kind="gated", quantized=True)),
    _case(_Shape((1, 1, 1), 288, 4, quantized=True)),
    _case(_Shape((2, 6), 17, 3, kind="gated", bias=True)),
    _case(_Shape((4, 3), 31, 6)),
    _case(_Shape((3, 1), 40, 4, scale=60)),
]

# Qwen3.5 2B and LFM2 1.2B: decoding, eight sequences, and a prompt.
_MODELS = (_Shape((1,), 6144, 4), _Shape((1,), 2048, 3, kind="gated", quantized=True))
BENCH_CASES = [
    _case(replace(shape, counts=counts, keep=False))
    for shape in _MODELS
    for counts in ((1,), (1,) * 8, (512,))
]
