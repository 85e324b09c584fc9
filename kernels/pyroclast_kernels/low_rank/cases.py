"""Cases of `low_rank`: adapters of several ranks, tokens with and without one."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case

_Shape = tuple[int, int, int]  # tokens, rows, columns


def _low_rank(shape: _Shape, ranks: tuple[int, ...], adapters: tuple[int, ...]) -> Arguments:
    """adapters: those of the tokens, over and over."""
    n_tokens, n_rows, n_cols = shape
    rng = np.random.default_rng([*shape, *ranks])
    most = max(ranks) + 1
    lora_a = np.full((len(ranks), most, n_cols), np.nan, np.float32)
    lora_b = np.full((len(ranks), n_rows, most), np.nan, np.float32)  # NaN: not to be read
    for i, rank in enumerate(ranks):
        lora_a[i, :rank] = rng.standard_normal((rank, n_cols))
        lora_b[i, :, :rank] = rng.standard_normal((n_rows, rank))
    adapter_of_token = np.resize(np.array(adapters, np.int32), n_tokens + 1)
    stride = n_rows + 3
    return {
        "n_tokens": np.array([n_tokens]),
        "n_adapted": np.array([np.count_nonzero(adapter_of_token[:n_tokens] >= 0)]),
        "adapter_of_token": adapter_of_token,
        "x": rng.standard_normal((n_tokens + 1, n_cols)).astype(np.float32),
        "lora_a": lora_a,
        "lora_b": lora_b,
        "ranks": np.array(ranks, np.int32),
        "scales": np.array([2.0 / (i + 1) for i in range(len(ranks))], np.float32),
        "out": rng.standard_normal((n_tokens + 1, stride)).astype(np.float32),
        "n_rows": n_rows,
        "n_cols": n_cols,
        "max_rank": most,
        "out_stride": stride,
    }


def _unused(shape: _Shape) -> Arguments:
    """A step that says it has no adapted token: what the tokens' adapters are is left over."""
    return _low_rank(shape, (4,), (0,)) | {"n_adapted": np.array([0])}


def _bound(arguments: Arguments, expected: Array) -> Array:
    """Both sums by the classic bound, on absolute values: n eps sum |a||b| each, on both sides."""
    n_tokens, n_rows = int(arguments["n_tokens"][0]), arguments["n_rows"]
    bound = np.zeros_like(expected)
    for t in range(n_tokens if arguments["n_adapted"][0] else 0):
        adapter = arguments["adapter_of_token"][t]
        if adapter < 0:
            continue
        rank = arguments["ranks"][adapter]
        a = np.abs(arguments["lora_a"][adapter, :rank])
        b = np.abs(arguments["lora_b"][adapter, :, :rank])
        sums = (np.abs(arguments["x"][t]) @ a.T * arguments["scales"][adapter]) @ b.T
        n_terms = arguments["n_cols"] + rank + 8
        bound[t, :n_rows] = 2 * n_terms * EPS * sums + 2 * EPS * np.abs(expected[t, :n_rows])
    return bound


def _case(shape: _Shape, ranks: tuple[int, ...], adapters: tuple[int, ...]) -> Case:
    n_tokens, n_rows, n_cols = shape
    name = "x".join(map(str, shape)) + "-r" + "r".join(map(str, ranks))
    return Case(
        op="low_rank",
        format="f32",
        name=name + "-some" * (min(adapters) < 0),
        make=lambda: _low_rank(shape, ranks, adapters),
        outputs=("out",),
        bound=_bound,
        reason="two float32 dot products: error <= 2 n eps sum |a||b|",
        flops=2 * n_tokens * max(ranks) * (n_rows + n_cols),
        bytes=4 * (len(ranks) * max(ranks) * (n_rows + n_cols) + n_tokens * (2 * n_rows + n_cols)),
    )


CASES = [
    _case((1, 1, 1), (1,), (0,)),
    _case((1, 576, 576), (16,), (0,)),
    _case((3, 17, 45), (3, 8), (1, -1, 0)),
    _case((7, 300, 96), (16, 1, 70), (2, 0, -1, 1, 2)),
    _case((2, 40, 33), (5,), (-1, 0)),
    _case((33, 130, 64), (0, 33), (1, 0)),
    Case(
        op="low_rank",
        format="f32",
        name="3x20x32-unused",
        make=lambda: _unused((3, 20, 32)),
        outputs=("out",),
        bound=lambda arguments, expected: 0.0,
        reason="nothing is written",
    ),
]

# An attention projection of a 1B model, in a step where every token has an adapter.
BENCH_CASES = [_case((n, 2048, 2048), (16,) * k, tuple(range(k))) for n, k in ((1, 1), (8, 4))] + [
    _case((512, 2048, 2048), (16,), (0,))
]
