"""Each feature of a LayerSpec alone, and all together: against a plain forward pass, and the bits
of a token in whatever step it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_up
import made_up_forward
import tiny
from made_up import ALL, BASE, FEATURES, MadeUp
from pyroclast.families.registry import FAMILIES
from pyroclast.model.adapters import TARGETS, AdapterSlots
from pyroclast.model.inspect import inspect_step
from stepping import load, logits_of, step

TOKENS = np.random.default_rng(5).integers(0, 256, 100).tolist()
CONFIG = replace(
    tiny.BASE,
    family="made-up",
    n_layers=len(made_up.LAYERS),
    extra={"local_rope_theta": made_up.LOCAL_THETA},
)
MODELS = {**FEATURES, "all together": ALL}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """A made-up model, whose family is registered."""
    return register(MODELS[request.param], monkeypatch)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """The one with all features."""
    return register(ALL, monkeypatch)


def register(model: MadeUp, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    monkeypatch.setitem(FAMILIES, "made-up", made_up.family(model))
    return model


def gguf_file(folder: Path, quant: str = "F32") -> Path:
    return tiny.write_gguf(folder / f"{quant}.gguf", CONFIG, tiny.random_weights(CONFIG), quant)


def test_logits_equal_a_plain_forward_pass(tmp_path: Path, model: MadeUp) -> None:
    """In both file formats; and a model without that feature gives something else."""
    weights = tiny.random_weights(CONFIG)
    want = made_up_forward.forward(weights, TOKENS, CONFIG.norm_eps, model)
    scale = float(np.abs(want).max())
    assert float(want.std()) > 0.1
    folder = tiny.write_folder(tmp_path / "hf", CONFIG, weights)
    for path, kernels in ((gguf_file(tmp_path), None), (folder, None), (folder, "*=numpy")):
        got = logits_of(load(path, compute="float32", kernels=kernels), TOKENS)
        np.testing.assert_allclose(got, want, atol=3e-5 * scale, rtol=0, err_msg=str(kernels))
    FAMILIES["made-up"] = made_up.FAMILY
    without = made_up_forward.forward(
        tiny.random_weights(CONFIG) | weights, TOKENS, CONFIG.norm_eps, BASE
    )
    assert np.abs(without - want).max() > 1e-3 * scale


@pytest.mark.parametrize("name", ["frequencies divided", "cosines multiplied", "all together"])
def test_the_context_in_use_decides_the_frequencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not the length of the text: two cache blocks are a context of 64."""
    made = register(MODELS[name], monkeypatch)
    weights = tiny.random_weights(CONFIG)
    path = gguf_file(tmp_path)
    for n_blocks, context in ((2, 64), (3, 96), (None, 256)):
        loaded = load(path, compute="float32", n_blocks=n_blocks)
        assert loaded.max_seq_len == context
        got = inspect_step(loaded, TOKENS[:40], attention=False, logits=True).layers[3].logits
        want = made_up_forward.forward(weights, TOKENS[:40], CONFIG.norm_eps, made, context)
        assert_near(got, want)


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "BF16"])
def test_a_token_has_the_same_bits_in_every_step(tmp_path: Path, model: MadeUp, quant: str) -> None:
    """Alone, in chunks, and beside others."""
    loaded = load(gguf_file(tmp_path, quant))
    whole = logits_of(loaded, TOKENS)
    for size in (1, 33):
        chunks = [
            step(loaded, [(1, first, TOKENS[first : first + size])])[0]
            for first in range(0, len(TOKENS), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), whole, err_msg=f"chunks of {size}")
    step(loaded, [(2, 0, TOKENS[:60]), (3, 0, TOKENS[::-1])])
    _, last, _ = step(loaded, [(3, 100, [5]), (2, 60, TOKENS[60:]), (4, 0, TOKENS[:7])])
    np.testing.assert_array_equal(last, whole[60:])


@pytest.mark.parametrize("options", [{"kv_dtype": "q8_0", "threads": 2}, {"threads": 1}])
@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "F16"])
def test_quantized_weights_equal_the_numpy_reference(
    tmp_path: Path, everything: MadeUp, quant: str, options: dict[str, Any]
) -> None:
    path = gguf_file(tmp_path, quant)
    want = logits_of(load(path, kernels="*=numpy", kv_dtype=options.get("kv_dtype", "f32")), TOKENS)
    got = logits_of(load(path, **options), TOKENS)
    assert np.abs(got - want).mean() < 0.03 * want.std()


# ---- what looks into a step, or changes it -------------------------------------------------


def test_states_equal_those_of_a_plain_forward_pass(tmp_path: Path, model: MadeUp) -> None:
    """As hidden rows, and as an inspection sees them; after the last layer the logits are the
    step's, to the bit."""
    weights = tiny.random_weights(CONFIG)
    embedding, *want, normed = made_up_forward.states(weights, TOKENS, CONFIG.norm_eps, model)
    chosen = (0, 1, 2, 3, "final")
    loaded = load(gguf_file(tmp_path), compute="float32", hidden_layers=chosen)
    logits = logits_of(loaded, TOKENS)
    for ours, theirs in zip(loaded.hidden[:, : len(TOKENS)], [*want, normed], strict=True):
        assert_near(ours, theirs)
    found = inspect_step(loaded, TOKENS, logits=True)
    assert_near(found.embedding, embedding)
    before = embedding
    probs = made_up_forward.probabilities(weights, TOKENS, CONFIG.norm_eps, model)
    for layer, expected in zip(found.layers.values(), probs, strict=True):
        np.testing.assert_allclose(layer.probs, expected, atol=3e-5, rtol=0)
    for layer, state in zip(found.layers.values(), want, strict=True):
        assert_near(layer.state, state)
        assert_near(layer.from_attention + layer.from_feed_forward, state - before)
        assert min(np.abs(layer.from_attention).max(), np.abs(layer.from_feed_forward).max()) > 0
        before = state
    np.testing.assert_array_equal(found.layers[3].logits, logits)


def assert_near(ours: Any, theirs: Any) -> None:
    bound = 3e-5 * float(np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, atol=bound, rtol=0)


def adapter(weights: tiny.Weights) -> dict[str, tuple[Any, Any]]:
    """Of rank 3, for every product that a layer has."""
    rng, pairs = np.random.default_rng(3), {}
    for name, w in weights.items():
        if name.startswith("layers.") and name.rpartition(".")[2] in TARGETS:
            a, b = (rng.standard_normal(shape) for shape in ((3, w.shape[1]), (w.shape[0], 3)))
            pairs[name] = (a / np.sqrt(w.shape[1])).astype(np.float32), b.astype(np.float32)
    return pairs


def test_adapters_equal_merged_weights(tmp_path: Path, model: MadeUp) -> None:
    weights = tiny.random_weights(CONFIG)
    pairs = adapter(weights)
    merged = {name: w.astype(np.float64) for name, w in weights.items()}
    for name, (a, b) in pairs.items():
        merged[name] += 0.3 * b.astype(np.float64) @ a
    loaded = load(gguf_file(tmp_path), compute="float32", adapters=AdapterSlots(2, 4))
    loaded.adapters.set(1, pairs, 0.3)
    step(loaded, [(0, 0, TOKENS)])
    loaded.adapters.assign([1])
    [got] = step(loaded, [(0, 0, TOKENS)])
    assert_near(got, made_up_forward.forward(merged, TOKENS, CONFIG.norm_eps, model))


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "BF16"])
def test_a_token_without_adapter_has_its_bits_beside_one_with(
    tmp_path: Path, everything: MadeUp, quant: str
) -> None:
    path = gguf_file(tmp_path, quant)
    loaded = load(path, adapters=AdapterSlots(2, 4))
    loaded.adapters.set(0, adapter(tiny.random_weights(CONFIG)), 0.5)
    spans = [(0, 0, TOKENS), (1, 0, TOKENS)]
    step(loaded, spans)
    loaded.adapters.assign([0, None])
    with_it, without = step(loaded, spans)
    np.testing.assert_array_equal(without, logits_of(load(path), TOKENS))
    assert np.abs(with_it - without).max() > 0.01


@pytest.mark.parametrize(
    ("weight", "where"),
    [
        ("layers.2.attn_norm_after", "layer 2 (residual)"),
        ("layers.0.k_norm", "layer 0 (qk_norm)"),
        ("layers.1.attn_norm_bias", "layer 1 (norm)"),
        ("position_embd", "embedding (embed)"),
        ("output_norm_bias", "output (norm)"),
    ],
)
def test_the_first_op_that_gives_a_nan_is_named(
    tmp_path: Path, everything: MadeUp, weight: str, where: str
) -> None:
    weights = tiny.random_weights(CONFIG)
    weights[weight][...] = np.nan
    path = tiny.write_gguf(tmp_path / "nan.gguf", CONFIG, weights)
    loaded = load(path, compute="float32")
    step(loaded, [(0, 0, TOKENS[:5])])
    assert loaded.find_non_finite() == where
