"""The inside of a step against an independent forward pass, and against the step itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_up
import made_up_forward
from numpy_forward import numpy_forward
from pyroclast.errors import (
    ClosedError,
    ContextOverflowError,
    MemoryBudgetError,
    RequestError,
)
from pyroclast.families.registry import FAMILIES
from pyroclast.model import step_reader
from pyroclast.model.inspect import inspect_step
from pyroclast.model.kv_cache import DTYPES
from pyroclast_kernels.attention import cache
from pyroclast_kernels.attention.cases import _bound
from pyroclast_kernels.q8_blocks import dequantize
from stepping import load, logits_of, step
from tiny import BASE, CONFIGS, random_weights, write_gguf

TOKENS = np.random.default_rng(7).integers(0, 256, 70).tolist()
# Llama with grouped heads, a window, biases, a tied output head.
NAMES = ("llama", "mistral", "qwen2-tied")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def tiny(folder: Path, name: str, quant: str = "F32") -> Path:
    path = folder / f"{name}-{quant}.gguf"
    if not path.exists():
        write_gguf(path, CONFIGS[name], random_weights(CONFIGS[name]), quant)
    return path


@pytest.mark.parametrize("kernels", [None, "*=numpy"])
@pytest.mark.parametrize("name", NAMES)
def test_everything_equals_an_independent_forward_pass(
    folder: Path, name: str, kernels: str | None
) -> None:
    want = numpy_forward(CONFIGS[name], random_weights(CONFIGS[name]), TOKENS)
    model = load(tiny(folder, name), compute="float32", kernels=kernels)
    got = inspect_step(model, TOKENS, logits=True)
    assert got.positions == tuple(range(len(TOKENS))) and list(got.layers) == [0, 1]
    np.testing.assert_array_equal(got.embedding, want.embedding)
    for ours, theirs in zip(got.layers.values(), want.layers, strict=True):
        # Sums of at most 160 terms in float32, through two layers.
        for field in ("state", "from_attention", "from_feed_forward", "probs"):
            wanted = getattr(theirs, field)
            bound = 2e-5 * float(np.abs(wanted).max())
            np.testing.assert_allclose(
                getattr(ours, field), wanted, atol=bound, rtol=0, err_msg=field
            )
    last = got.layers[1]
    bound = 2e-5 * float(np.abs(want.logits).max())
    np.testing.assert_allclose(last.logits, want.logits, atol=bound, rtol=0)


def test_logits_after_the_last_layer_are_those_of_the_step(folder: Path) -> None:
    """To the bit, whatever the chunks; those of an earlier layer are others."""
    path = tiny(folder, "llama", "Q8_0")
    model = load(path, max_batch_tokens=33, max_logits=10)
    got = inspect_step(model, TOKENS, attention=False, logits=True)
    want = logits_of(load(path), TOKENS)
    np.testing.assert_array_equal(got.layers[1].logits, want)
    assert np.abs(got.layers[0].logits - want).max() > 0.1
    assert got.layers[1].probs.shape == (6, 0, 70)


def attention_outputs(model: Any) -> list[np.ndarray[Any, Any]]:
    """What the op gave in each layer of the step in the batch: float32 (n_tokens, n_heads,
    head_dim)."""
    program, found = model.program(), []
    for i, call in enumerate(program.calls):
        program.run_one(i)
        if call.kernel.op == "attention":
            a, n = call.arguments, model.batch.n_tokens
            y = a["out"][:n].copy() if a["out"] is not None else dequantize(a["out_q8"][:n])
            found.append(y.reshape(n, a["n_heads"], a["head_dim"]))
    return found


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_probabilities_explain_what_attention_gave(folder: Path, name: str, kv_dtype: str) -> None:
    """probs @ V is the op's result within the bound of the op's own cases."""
    model = load(tiny(folder, name), compute="float32", kv_dtype=kv_dtype)
    got = inspect_step(model, TOKENS)
    step(model, [(0, 0, TOKENS)])
    calls = [call for call in model.program().calls if call.kernel.op == "attention"]
    n, blocks = len(TOKENS), model.batch.block_tables[0, :3]
    for layer, call, want in zip(got.layers.values(), calls, attention_outputs(model), strict=True):
        a = call.arguments
        _, v = cache.read(a["k_cache"][blocks], a["v_cache"][blocks], a["head_dim"], 32)
        np.testing.assert_allclose(layer.probs.sum(axis=-1), 1, atol=n * 2.0**-23, rtol=0)
        assert (layer.probs[:, ~np.tri(n, dtype=bool)] == 0).all()
        window = a["window"] or n
        assert (layer.probs[:, np.tri(n, k=-window, dtype=bool)] == 0).all()
        explained = layer.probs @ np.repeat(v[:, :n], 3, axis=0)
        largest = float(np.abs(v).max())  # the cases' values are below 5
        bound = _bound(a, want) * max(1.0, largest / 5)
        np.testing.assert_allclose(explained.swapaxes(0, 1), want, atol=bound, rtol=0)


def test_layers_may_differ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, windows and widths by layer; the logits after the last are the model's."""
    monkeypatch.setitem(FAMILIES, made_up.FAMILY.name, made_up.FAMILY)
    n_layers = len(made_up.LAYERS)
    extra = {"local_rope_theta": made_up.LOCAL_THETA}
    config = replace(BASE, family="made-up", n_layers=n_layers, extra=extra)
    weights = random_weights(config)
    path = write_gguf(folder / "made-up.gguf", config, weights)
    got = inspect_step(load(path, compute="float32"), TOKENS, logits=True)
    for layer, spec in zip(got.layers.values(), made_up.LAYERS, strict=True):
        assert layer.probs.shape == (spec.n_heads, 70, 70)
        window = spec.window or 70
        assert ((layer.probs > 0).sum(axis=-1) == np.minimum(np.arange(70) + 1, window)).all()
    want = made_up_forward.forward(weights, TOKENS, config.norm_eps)
    bound = 5e-5 * float(np.abs(want).max())
    np.testing.assert_allclose(got.layers[n_layers - 1].logits, want, atol=bound, rtol=0)


def test_layers_and_positions_choose_what_is_kept(folder: Path) -> None:
    model = load(tiny(folder, "llama"), max_batch_tokens=33)
    whole = inspect_step(model, TOKENS, logits=True)
    some = inspect_step(model, TOKENS, layers=[1], positions=[69, 4, 34], logits=True)
    assert some.positions == (4, 34, 69) and list(some.layers) == [1]
    rows = list(some.positions)
    np.testing.assert_array_equal(some.embedding, whole.embedding[rows])
    for field in ("state", "from_attention", "from_feed_forward", "logits"):
        want = getattr(whole.layers[1], field)[rows]
        np.testing.assert_array_equal(getattr(some.layers[1], field), want)
    np.testing.assert_array_equal(some.layers[1].probs, whole.layers[1].probs[:, rows])
    none = inspect_step(model, TOKENS, positions=[])
    assert none.embedding.shape == (0, 96) and none.layers[0].probs.shape == (6, 0, 70)


def test_the_engine_s_batch_and_other_blocks_stay_as_they_are(folder: Path) -> None:
    model = load(tiny(folder, "llama"))
    first = step(model, [(1, 0, TOKENS[:20]), (2, 0, TOKENS[:9])])
    want = inspect_step(model, TOKENS[:40], blocks=[0, 8]).layers[1].state
    model.forward()  # the same step once more, without writing its batch
    np.testing.assert_array_equal(model.logits[:20], first[0])
    np.testing.assert_array_equal(model.logits[20:29], first[1])
    [after] = step(model, [(1, 20, TOKENS[20:25])])
    np.testing.assert_array_equal(after, logits_of(load(tiny(folder, "llama")), TOKENS[:25])[20:])
    got = inspect_step(model, TOKENS[:40], blocks=[5, 3, 4]).layers[1].state
    np.testing.assert_array_equal(got, want)


def test_nothing_is_paid_when_nothing_is_inspected(folder: Path) -> None:
    """The recorded step is the same object, with the same calls, before and after."""
    model = load(tiny(folder, "llama"))
    program, calls = model.program(), list(model.program().calls)
    inspect_step(model, TOKENS[:5])
    assert model.program() is program and all(
        a is b for a, b in zip(program.calls, calls, strict=True)
    )


@pytest.mark.parametrize(
    ("token_ids", "options", "error", "words"),
    [
        ([], {}, RequestError, "at least one token"),
        ([1, 320], {}, RequestError, r"0\.\.319, got 320"),
        ([-1], {}, RequestError, "got -1"),
        ([1] * 65, {}, ContextOverflowError, "at most 64 tokens"),
        ([1], {"layers": [2]}, RequestError, r"layers must be in 0\.\.1, got 2"),
        ([1, 2], {"positions": [-1]}, RequestError, r"positions must be in 0\.\.1, got -1"),
        ([1] * 40, {"blocks": [1]}, RequestError, "need 2 different cache blocks"),
        ([1] * 40, {"blocks": [1, 1]}, RequestError, "need 2 different cache blocks"),
        ([1], {"blocks": [2]}, RequestError, r"0\.\.1, got 2"),
    ],
)
def test_bad_requests(
    folder: Path, token_ids: list[int], options: dict[str, Any], error: type, words: str
) -> None:
    model = load(tiny(folder, "llama"), n_blocks=2)
    with pytest.raises(error, match=words):
        inspect_step(model, token_ids, **options)


def test_a_result_that_is_too_large_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny(folder, "llama"))
    monkeypatch.setattr(step_reader, "MAX_BYTES", 1 << 20)
    inspect_step(model, TOKENS, attention=False)
    with pytest.raises(MemoryBudgetError, match=r"would hold \d MiB, at most 1 MiB"):
        inspect_step(model, [1] * 200)


def test_a_closed_model_is_an_error(folder: Path) -> None:
    model = load(tiny(folder, "llama"))
    model.close()
    with pytest.raises(ClosedError):
        inspect_step(model, [1])
