"""Calls that the GPU does in one kernel: to the bit what they are one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation.triton.kernels import launch_glu
from pyroclast_kernels.attention.cases import _attention as attention_arguments
from pyroclast_kernels.attention.triton.attention import launch_attention
from pyroclast_kernels.gpu import program as triton_program
from pyroclast_kernels.gpu.fusion import FUSIONS, Fusion, fusions
from pyroclast_kernels.gpu.memory import DeviceMemory
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.matmul.triton.blocks import launch_blocks
from pyroclast_kernels.matmul.triton.gate_up import launch_gate_up
from pyroclast_kernels.matmul.triton.values import launch_gated, launch_values
from pyroclast_kernels.norm.triton_kernels import launch_norm
from pyroclast_kernels.rope.cases import ORDER as ROPE_ORDER
from pyroclast_kernels.rope.cases import Shape, rotation
from pyroclast_kernels.rope.triton_kernels import launch_rope
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits, on_host
from pyroclast_kernels.weights.blocks import LAYOUTS
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows
from stepping import load, step

Arguments = dict[str, Any]
RNG = np.random.default_rng(11)
CONFIG = replace(
    tiny.BASE,
    n_layers=1,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    d_model=64,
    d_ff=96,
    vocab_size=272,
    max_seq_len=128,
)
TOKENS = RNG.integers(0, 256, 40).tolist()


def fusion(*ops: str) -> Fusion:
    [found] = [each for each in FUSIONS if each.ops == ops]
    return found


def packed(format: str, n_rows: int, n_cols: int) -> PackedWeight:
    weight = PackedWeight.empty(format, n_rows, n_cols)
    pack_rows(raw_rows(np.random.default_rng(1), n_rows, n_cols, format), weight, 0)
    return weight


def bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in arrays.items() if isinstance(a, np.ndarray)}


# ---- norm, and a product of it ----------------------------------------------------------------


def normed_arguments(format: str, d_model: int, row: int | None = None) -> Arguments:
    """Of norm, which quantizes where the product reads blocks; three rows, of which one counts."""
    takes_q8 = format in BLOCK_FORMATS
    return {
        "n_tokens": np.array([1]),
        "rows": None if row is None else np.array([row, 9], np.int32),
        "x": RNG.standard_normal((3, d_model)).astype(np.float32) * 3,
        "norm_weight": RNG.standard_normal(d_model).astype(np.float32),
        "normed": None if takes_q8 else np.zeros((3, d_model), np.float32),
        "normed_q8": np.zeros((3, d_model // 32), q8_blocks.Q8_BLOCK) if takes_q8 else None,
    }


def norm_of(t: Arguments) -> Arguments:
    """launch_norm's part of the tensors."""
    return {
        "n_tokens": t["n_tokens"], "rows": t["rows"], "x": t["x"], "weight": t["norm_weight"],
        "bias": None, "out": t["normed"], "out_q8": t["normed_q8"], "d_model": t["x"].shape[1],
        "eps": 1e-5, "kind": 0,
    }  # fmt: skip


def hidden(t: Arguments) -> Any:
    return t["normed"] if t["normed"] is not None else t["normed_q8"]


@pytest.mark.parametrize(("format", "d_model", "row"), [
    *((f, 2 * LAYOUTS[f].columns if f in LAYOUTS else 45, None) for f in FORMATS),
    ("q8_0", 576, 2), ("q4_k", 2048, 1), ("bf16", 576, 0),
])  # fmt: skip
def test_norm_and_product(format: str, d_model: int, row: int | None) -> None:
    n_rows = 80
    one = normed_arguments(format, d_model, row) | {
        "weight": packed(format, n_rows, d_model),
        "bias": RNG.standard_normal(n_rows).astype(np.float32),
        "out": np.full((3, n_rows + 5), 7, np.float32),
    }
    other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in one.items()}

    def product_of(t: Arguments) -> Arguments:
        return {
            "n_tokens": t["n_tokens"], "x": hidden(t), "weight": t["weight"], "bias": t["bias"],
            "out": t["out"], "n_rows": n_rows, "n_cols": d_model, "out_stride": n_rows + 5,
            "accumulate": 0,
        }  # fmt: skip

    def together(_: Limits, **t: Any) -> None:
        fusion("norm", "matmul").launch(Limits(1), norm_of(t), product_of(t))

    def apart(_: Limits, **t: Any) -> None:
        launch_norm(Limits(1), **norm_of(t))
        product = launch_blocks if format in BLOCK_FORMATS else launch_values
        product(Limits(1), **product_of(t))

    on_host(together)(**one)
    on_host(apart)(**other)
    assert bits(one) == bits(other)
    assert (one["out"][1:] == 7).all() and (one["out"][0, n_rows:] == 7).all()
    assert not triton_device.counters().any()


@pytest.mark.parametrize("format", ["q8_0", "q4_k", "q6_k"])
def test_norm_and_gate_up(format: str) -> None:
    d_ff, d_model = 96, 512
    one = normed_arguments(format, d_model) | {
        "weight": packed(format, 2 * d_ff, d_model),
        "out": np.full((2, d_ff), 7, np.float32),
        "out_q8": np.zeros((2, d_ff // 32), q8_blocks.Q8_BLOCK),
    }
    other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in one.items()}

    def product_of(t: Arguments) -> Arguments:
        names = ("n_tokens", "weight", "out", "out_q8")
        return {name: t[name] for name in names} | {
            "x": hidden(t),
            "d_ff": d_ff,
            "n_cols": d_model,
            "activation": 2,
        }

    def together(_: Limits, **t: Any) -> None:
        fusion("norm", "gate_up").launch(Limits(1), norm_of(t), product_of(t))

    def apart(_: Limits, **t: Any) -> None:
        launch_norm(Limits(1), **norm_of(t))
        launch_gate_up(Limits(1), **product_of(t))

    on_host(together)(**one)
    on_host(apart)(**other)
    assert bits(one) == bits(other)
    assert (one["out"][1:] == 7).all()


def test_no_token_no_norm() -> None:
    """A step's kernels are also launched where there is nothing to do."""
    given = normed_arguments("q8_0", 64) | {"n_tokens": np.array([0])}
    given |= {"weight": packed("q8_0", 32, 64), "out": np.full((1, 32), 7, np.float32)}
    before = bits(given)

    def together(_: Limits, **t: Any) -> None:
        product = {
            "n_tokens": t["n_tokens"], "x": hidden(t), "weight": t["weight"], "bias": None,
            "out": t["out"], "n_rows": 32, "n_cols": 64, "out_stride": 32, "accumulate": 0,
        }  # fmt: skip
        fusion("norm", "matmul").launch(Limits(1), norm_of(t), product)

    on_host(together)(**given)
    assert bits(given) == before


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_the_order_of_columns_changes_no_bit_of_a_norm(scale: float) -> None:
    """So it does not matter how many threads of which kernel share a row."""
    d_model = 1000
    x = (RNG.standard_normal((1, d_model)) * scale).astype(np.float32)
    weight, order = RNG.standard_normal(d_model).astype(np.float32), RNG.permutation(d_model)
    results = []
    for columns in (np.arange(d_model), order):
        out = np.zeros((1, d_model), np.float32)
        on_host(launch_norm)(
            n_tokens=np.array([1]), rows=None, x=x[:, columns].copy(), weight=weight[columns],
            bias=None, out=out, out_q8=None, d_model=d_model, eps=1e-6, kind=0,
        )  # fmt: skip
        results.append(out)
    np.testing.assert_array_equal(results[0][:, order], results[1])


# ---- a product of plain values, and a gated linear unit ---------------------------------------


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("format", "n_tokens", "d_ff", "d_model", "outputs"), [
    ("f32", 1, 48, 45, "values"), ("f32", 19, 96, 64, "values-q8"),
    ("f16", 1, 96, 64, "q8"), ("f16", 70, 80, 33, "values"),
    ("bf16", 1, 80, 64, "values"), ("bf16", 1, 64, 45, "values-q8"),
    ("bf16", 5, 2112, 64, "values"), ("bf16", 130, 160, 72, "values-q8"),
])  # fmt: skip
def test_product_and_glu(
    format: str, n_tokens: int, d_ff: int, d_model: int, outputs: str, with_norm: bool
) -> None:
    limits = Limits(n_tokens)
    if with_norm and n_tokens > 1:
        assert not fusion("norm", "matmul", "glu").fits(limits)
        return
    rows = max(3, n_tokens + 1)
    one = normed_arguments(format, d_model) | {
        "n_tokens": np.array([n_tokens]),
        "weight": packed(format, 2 * d_ff, d_model),
        "sums": np.zeros((rows, 2 * d_ff), np.float32),
        "out": np.full((rows, d_ff), 7, np.float32) if "values" in outputs else None,
        "out_q8": np.zeros((rows, d_ff // 32), q8_blocks.Q8_BLOCK) if "q8" in outputs else None,
    }
    one["normed"] = RNG.standard_normal((rows, d_model)).astype(np.float32)
    other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in one.items()}

    def calls(t: Arguments) -> tuple[Arguments, Arguments]:
        product = {
            "n_tokens": t["n_tokens"], "x": t["normed"], "weight": t["weight"], "bias": None,
            "out": t["sums"], "n_rows": 2 * d_ff, "n_cols": d_model, "out_stride": 2 * d_ff,
            "accumulate": 0,
        }  # fmt: skip
        names = ("n_tokens", "out", "out_q8")
        return product, {n: t[n] for n in names} | {
            "gate_up": t["sums"],
            "d_ff": d_ff,
            "activation": 1,
            "gated": 1,
        }

    def together(_: Limits, **t: Any) -> None:
        if with_norm:
            fusion("norm", "matmul", "glu").launch(limits, norm_of(t), *calls(t))
        else:
            fusion("matmul", "glu").launch(limits, *calls(t))

    def apart(_: Limits, **t: Any) -> None:
        product, gate = calls(t)
        if with_norm:
            launch_norm(limits, **norm_of(t))
        launch_values(limits, **product)
        launch_glu(limits, **gate)

    on_host(together)(**one)
    on_host(apart)(**other)
    assert not one.pop("sums").any() and other.pop("sums").any()
    assert bits(one) == bits(other)
    if one["out"] is not None:
        assert (one["out"][n_tokens:] == 7).all() and (one["out"][:n_tokens] != 7).all()


def test_a_share_of_a_tile_is_written_alone() -> None:
    """2112 rows of each half are 132 times 16 of a tile's 32: neighbours' rows stay theirs."""
    from pyroclast_kernels.matmul.triton.tiles import tile_of

    assert tile_of("bf16", 2, 2112, 1, True, parts=2).rows == 16
    assert tile_of("bf16", 2, 2112, 1, True, parts=2, whole=True).rows == 32
    d_ff, d_model = 2112, 32
    weight = packed("bf16", 2 * d_ff, d_model)
    x = RNG.standard_normal((1, d_model)).astype(np.float32)
    cut = (x.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, so that tiles come by TMA
    given = {"n_tokens": np.array([1]), "x": cut, "weight": weight}
    given |= {"out": np.zeros((1, d_ff), np.float32), "out_q8": None}
    on_host(launch_gated)(**given, d_ff=d_ff, n_cols=d_model, activation=0)
    values = (cut.astype(np.uint32) << 16).view(np.float32)
    y = values @ weight.dequantize().T
    gate, up = y[:, :d_ff], y[:, d_ff:]
    wanted = gate / (1 + np.exp(-gate)) * up
    np.testing.assert_allclose(given["out"], wanted, rtol=1e-4, atol=1e-4)


# ---- rope, and attention ----------------------------------------------------------------------

# Each with its window, how many dimensions rotate, and the temperature of its queries.
DECODING = [
    (Shape(1, 1, 2, ((0, 1),)), 0, 2, 0.0),
    (Shape(9, 3, 64, ((0, 1), (31, 1), (32, 1), (255, 1), (256, 1))), 0, 64, 0.0),
    (Shape(9, 3, 64, ((1100, 1), (5, 1))), 0, 64, 0.0),
    (Shape(14, 2, 24, ((40, 1), (300, 1))), 33, 24, 0.0),
    (Shape(40, 1, 16, ((70, 1),)), 0, 16, 0.0),  # three programs write one key
    (Shape(2, 1, 80, ((31, 1),)), 0, 80, 0.0),
    (Shape(9, 3, 64, ((300, 1), (5, 1))), 0, 16, 0.0),
    (Shape(4, 2, 80, ((31, 1), (40, 1))), 0, 20, 0.4),
    (Shape(2, 1, 64, ((50, 1),)), 0, 0, 0.0),
    (Shape(2, 1, 64, ((50, 1),)), 0, 0, 0.3),
    (Shape(4, 2, 32, ((100, 1), (15, 1))), 33, 32, 0.7),
]


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("shape", "window", "rotary_dim", "temperature"), DECODING, ids=str)
def test_rope_and_attention(
    shape: Shape, window: int, rotary_dim: int, temperature: float, format: str
) -> None:
    quantized = shape.head_dim % 32 == 0
    scoring: Arguments = {"softcap": 2.0, "sinks": 3.0} if temperature > 0 else {}
    one = attention_arguments(shape, format, window, quantized, **scoring)
    of_attention = tuple(one)
    one |= rotation(one["positions"], rotary_dim, temperature, 16)
    one["seq_index"] = np.arange(shape.n_tokens, dtype=np.int32)
    other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in one.items()}

    def calls(t: Arguments) -> tuple[Arguments, Arguments]:
        return {name: t[name] for name in ROPE_ORDER}, {name: t[name] for name in of_attention}

    def together(limits: Limits, **t: Any) -> None:
        assert fusion("rope", "attention").fits(limits)
        fusion("rope", "attention").launch(limits, *calls(t))

    def apart(limits: Limits, **t: Any) -> None:
        rope, attention = calls(t)
        launch_rope(limits, **rope)
        launch_attention(format)(limits, **attention)

    on_host(together)(**one)
    on_host(apart)(**other)
    del one["qkv"], other["qkv"]  # rotated in place, or not at all
    assert bits(one) == bits(other)
    assert not fusion("rope", "attention").fits(Limits(4, decode=False))


# ---- the step ---------------------------------------------------------------------------------


def written(folder: Path, quant: str) -> Path:
    path = folder / f"{quant}.gguf"
    return tiny.write_gguf(path, CONFIG, tiny.random_weights(CONFIG), quant)


@pytest.mark.parametrize(("quant", "compute", "n_kernels"), [
    ("F32", "float32", (5, 7)), ("BF16", "auto", (5, 7)), ("Q8_0", "auto", (5, 7)),
])  # fmt: skip
def test_a_layer_is_five_kernels(
    tmp_path: Path, quant: str, compute: str, n_kernels: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of one token; norms of several are their own.  And every array of the step is the same."""
    path, results = written(tmp_path, quant), []
    for found in (fusions, lambda _: []):
        monkeypatch.setattr(triton_program, "fusions", found)
        model = load(path, device="cuda", compute=compute, max_batch_tokens=16, max_logits=16)
        program: Any = model.program()
        step(model, [(1, 0, TOKENS[:5]), (2, 0, TOKENS[5:6])])
        logits = [step(model, [(1, 5, TOKENS[6:7])])[0]]
        one = bounds_of_last(program)
        logits += step(model, [(1, 6, TOKENS[7:8]), (2, 1, TOKENS[8:9])])
        two = bounds_of_last(program)
        cache = [model.memory.to_host(array, 4) for array in (*model.cache.k, *model.cache.v)]
        results.append([*logits, *cache, model.memory.to_host(model._decoder.work.x, 2)])
        counts = [len(program.units(bounds)) for bounds in (one, two)]
        outside = 2, 1  # embed, rope_table; then the head, whose norm is within it
        if found is fusions:
            assert [one.n_tokens, two.n_tokens] == [1, 2]
            assert counts[0] == sum(outside) + n_kernels[0]
            assert counts[1] == sum(outside) + 1 + n_kernels[1]
        times = program.profile()
        assert len(times) == len(program.calls)
        assert sum(time > 0 for time in times) == counts[1]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def bounds_of_last(program: Any) -> Any:
    return list(program.captured)[-1]


def test_what_does_not_belong_together_stays_apart(tmp_path: Path) -> None:
    model = load(written(tmp_path, "BF16"), device="cuda", max_batch_tokens=4, max_logits=4)
    calls = model.program().calls
    at = [call.kernel.op for call in calls].index("norm", 4)  # that of the feed-forward block
    ops = ("norm", "matmul", "glu")
    found = [each.ops for each in fusions(calls[at:])]
    assert found == [ops, ops[:2]]
    assert [each.ops for each in fusions(calls[at + 1 :])] == [ops[1:]]
    assert fusions(calls[at + 2 :]) == []
    norm, product, gate = calls[at : at + 3]

    def changed(call: Any, **arguments: Any) -> Any:
        return replace(call, arguments=call.arguments | arguments)

    other = DeviceMemory().zeros((4, 64), np.uint16)
    foreign = replace(norm, kernel=replace(norm.kernel, variant="triton-mine"))
    assert fusions([foreign, product, gate]) == []
    assert fusions([changed(norm, out=other), product, gate]) == []
    assert fusions([changed(norm, kind=1), product, gate]) == []
    assert fusions([changed(norm, bias=norm.arguments["weight"]), product, gate]) == []
    assert fusions([changed(norm, n_tokens=model.batch.n_logits_at), product, gate]) == []
    for change in ({"bias": norm.arguments["weight"]}, {"accumulate": 1}, {"out_stride": 193}):
        some = [norm, changed(product, **change), gate]
        assert [each.ops for each in fusions(some)] == [ops[:2]]
    assert fusions([product, changed(gate, gated=0)]) == []
    blocks = changed(gate, out_q8=other, d_ff=96)
    assert [each.ops for each in fusions([norm, product, blocks])] == [ops, ops[:2]]
    at = [call.kernel.op for call in calls].index("rope")
    rope, attention = calls[at : at + 2]
    assert [each.ops for each in fusions([rope, attention])] == [("rope", "attention")]
    assert fusions([rope, changed(attention, qkv=other)]) == []
