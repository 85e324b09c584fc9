"""Adapters against merged weights, against each other, and against a model without slots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_forward import numpy_forward
from pyroclast.errors import RequestError
from pyroclast.model.adapters import TARGETS, AdapterSlots
from pyroclast.model.inspect import inspect_step
from pyroclast.model.model import Model
from stepping import Span, load, logits_of, step
from tiny import BASE, CONFIGS, random_weights, write_gguf

TOKENS = np.random.default_rng(7).integers(0, 256, 40).tolist()
OTHER = np.random.default_rng(8).integers(0, 256, 25).tolist()
SLOTS = AdapterSlots(3, 4)
WEIGHTS = random_weights(BASE)
Tensors = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def adapter(rank: int, names: tuple[str, ...] = TARGETS, seed: int = 0) -> Tensors:
    """Of every layer, about half as large as the weights."""
    rng = np.random.default_rng([seed, rank])
    pairs = {}
    for name in (f"layers.{i}.{target}" for i in range(BASE.n_layers) for target in names):
        n_rows, n_cols = WEIGHTS[name].shape
        a = rng.standard_normal((rank, n_cols)) / np.sqrt(n_cols)
        b = rng.standard_normal((n_rows, rank)) / np.sqrt(rank)
        pairs[name] = a.astype(np.float32), b.astype(np.float32)
    return pairs


def merged(tensors: Tensors, scale: float) -> dict[str, Any]:
    """The weights W + scale * B @ A in float64."""
    weights: dict[str, Any] = {name: w.astype(np.float64) for name, w in WEIGHTS.items()}
    for name, (a, b) in tensors.items():
        weights[name] += scale * b.astype(np.float64) @ a.astype(np.float64)
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def path_of(folder: Path, quant: str) -> Path:
    path = folder / f"{quant}.gguf"
    if not path.exists():
        write_gguf(path, BASE, WEIGHTS, quant)
    return path


def adapted(model: Model, spans: list[Span], slots: list[int | None]) -> Any:
    """The logits of each span under its adapter; the first run only writes the batch."""
    step(model, spans)
    model.adapters.assign(slots)
    return step(model, spans)


@pytest.mark.parametrize("kernels", [None, "*=numpy"])
@pytest.mark.parametrize("target", [*TARGETS, "all"])
def test_logits_are_those_of_merged_weights(folder: Path, target: str, kernels: str | None) -> None:
    tensors = adapter(3, TARGETS if target == "all" else (target,))
    want = numpy_forward(BASE, merged(tensors, 0.5), TOKENS).logits
    plain = numpy_forward(BASE, WEIGHTS, TOKENS).logits
    model = load(path_of(folder, "F32"), compute="float32", kernels=kernels, adapters=SLOTS)
    model.adapters.set(1, tensors, 0.5)
    [got] = adapted(model, [(0, 0, TOKENS)], [1])
    assert np.abs(want - plain).max() > 0.01 * np.abs(want).max()
    # Float32 sums of at most 160 terms, and of the adapter's own, through two layers.
    bound = 4e-5 * float(np.abs(want).max())
    np.testing.assert_allclose(got, want, atol=bound, rtol=0)


@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
def test_sequences_of_a_step_have_their_own(folder: Path, quant: str) -> None:
    """Each has the bits that it has alone; one without adapter those of a model without slots."""
    path = path_of(folder, quant)
    model = load(path, adapters=SLOTS)
    model.adapters.set(0, adapter(4), 1.0)
    model.adapters.set(2, adapter(1, ("wq", "w_down"), seed=1), -0.5)
    spans: list[Span] = [(0, 0, TOKENS), (1, 0, TOKENS), (2, 0, OTHER), (3, 0, TOKENS[:7])]
    together = adapted(model, spans, [2, None, 0, 0])
    for span, slot, got in zip(spans, [2, None, 0, 0], together, strict=True):
        [alone] = adapted(model, [span], [slot])
        np.testing.assert_array_equal(got, alone)
    np.testing.assert_array_equal(together[1], logits_of(load(path), TOKENS))
    assert np.abs(together[0] - together[1]).max() > 0.01
    np.testing.assert_array_equal(together[3], adapted(model, [(4, 0, TOKENS)], [0])[0][:7])
    decoded = adapted(model, [(0, 39, TOKENS[39:]), (1, 39, TOKENS[39:])], [2, None])
    np.testing.assert_array_equal(decoded[0], together[0][39:])
    np.testing.assert_array_equal(decoded[1], together[1][39:])


def test_an_inspection_uses_the_adapter_it_is_given(folder: Path) -> None:
    """And leaves the engine's assignment as it was."""
    model = load(path_of(folder, "Q8_0"), adapters=SLOTS, max_batch_tokens=40)
    model.adapters.set(1, adapter(3), 1.0)
    [with_it] = adapted(model, [(0, 0, TOKENS)], [1])
    for slot, want in ((None, logits_of(load(path_of(folder, "Q8_0")), TOKENS)), (1, with_it)):
        got = inspect_step(model, TOKENS, logits=True, blocks=[3, 4], adapter=slot)
        np.testing.assert_array_equal(got.layers[1].logits, want)
    model.forward()
    np.testing.assert_array_equal(model.logits[:40], with_it)
    with pytest.raises(RequestError, match="no adapter slot 3"):
        inspect_step(model, TOKENS, adapter=3)


def test_scale_and_slot_can_change(folder: Path) -> None:
    model = load(path_of(folder, "F32"), compute="float32", adapters=SLOTS)
    plain, tensors = logits_of(model, TOKENS), adapter(2)
    model.adapters.set(0, tensors, 0.25)
    [small] = adapted(model, [(0, 0, TOKENS)], [0])
    model.adapters.set(0, tensors, 0.5)
    large = logits_of(model, TOKENS)
    assert np.abs(large - plain).mean() > np.abs(small - plain).mean() > 0
    model.adapters.set(0, {}, 1.0)
    np.testing.assert_array_equal(logits_of(model, TOKENS), plain)


def test_nothing_is_recorded_without_slots_and_targets_bound_what_is(folder: Path) -> None:
    def ops_of(**options: Any) -> list[str]:
        return [c.kernel.op for c in load(path_of(folder, "Q8_0"), **options).program().calls]

    plain = ops_of()
    assert "low_rank" not in plain
    some = ops_of(adapters=AdapterSlots(1, 2, ("wq", "wo")))
    assert some.count("low_rank") == 2 * 2
    assert [op for op in some if op != "low_rank"] == plain  # gate and up are still one op
    assert ops_of(adapters=SLOTS).count("low_rank") == 7 * 2


@pytest.mark.parametrize(
    ("name", "quant"),
    [("llama", "F32"), ("llama", "Q8_0"), ("llama", "BF16"), ("llama-wide-head", "Q8_0")],
)
def test_unused_slots_change_no_bit(folder: Path, name: str, quant: str) -> None:
    """Where products read 8-bit blocks, values are written beside them; attention gives both only
    where a block does not span two heads."""
    path = folder / f"{name}-{quant}.gguf"
    write_gguf(path, CONFIGS[name], random_weights(CONFIGS[name]), quant)
    got = logits_of(load(path, adapters=SLOTS), TOKENS)
    np.testing.assert_array_equal(got, logits_of(load(path), TOKENS))


A, B = np.zeros((2, 96), np.float32), np.zeros((96, 2), np.float32)


@pytest.mark.parametrize(
    ("slot", "tensors", "scale", "words"),
    [
        (3, {}, 1.0, r"no adapter slot 3; slots are 0\.\.2"),
        (-1, {}, 1.0, "no adapter slot -1"),
        (0, {}, np.inf, "scale of an adapter must be finite, got inf"),
        (0, {"layers.2.wq": (A, B)}, 1.0, r"'layers\.2\.wq'; the model's slots change w_down, "),
        (0, {"layers.0.wq": (B, A)}, 1.0, r"A \(rank, 96\) and B \(96, rank\) of a rank in 1\.\.4"),
        (0, {"layers.0.wq": (A[:1], B)}, 1.0, r"got \(1, 96\) and \(96, 2\)"),
        (0, {"layers.0.wq": (A[:0], B[:, :0])}, 1.0, r"got \(0, 96\)"),
        (0, {"layers.0.wq": (np.tile(A, (3, 1)), np.tile(B, 3))}, 1.0, r"got \(6, 96\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    folder: Path, slot: int, tensors: Any, scale: float, words: str
) -> None:
    model = load(path_of(folder, "F32"), adapters=SLOTS)
    model.adapters.set(0, adapter(2), 1.0)
    [before] = adapted(model, [(0, 0, TOKENS)], [0])
    with pytest.raises(RequestError, match=words):
        model.adapters.set(slot, {"layers.1.wq": (A, B), **tensors}, scale)
    np.testing.assert_array_equal(logits_of(model, TOKENS), before)


def test_assigning_what_is_not_there(folder: Path) -> None:
    model = load(path_of(folder, "F32"), adapters=SLOTS)
    step(model, [(0, 0, TOKENS), (1, 0, OTHER)])
    with pytest.raises(RequestError, match="each of the step's 2 sequences needs an adapter"):
        model.adapters.assign([0])
    with pytest.raises(RequestError, match="no adapter slot 5"):
        model.adapters.assign([0, 5])
    bare = load(path_of(folder, "F32"))
    step(bare, [(0, 0, TOKENS)])
    bare.adapters.assign([None])
    for use in (lambda: bare.adapters.set(0, {}, 1.0), lambda: bare.adapters.assign([0])):
        with pytest.raises(RequestError, match=r"make it with adapters=AdapterSlots\(n, rank\)"):
            use()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 4), "n of adapters must be at least 1, got 0"),
        ((2, 0), "max_rank of adapters must be at least 1, got 0"),
        ((1, 1, ("w2",)), "must be of wq, .*, got 'w2'"),
    ],
)
def test_bad_slots(sizes: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        AdapterSlots(*sizes)
