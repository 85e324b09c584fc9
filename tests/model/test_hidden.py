"""Hidden rows beside the logits: against an independent forward pass, and free when off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_forward import numpy_forward
from pyroclast.errors import RequestError
from pyroclast.model.inspect import inspect_step
from stepping import load, logits_of, step
from tiny import BASE, random_weights, write_gguf

TOKENS = np.random.default_rng(7).integers(0, 256, 40).tolist()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "f32.gguf", BASE, random_weights(BASE))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "q8.gguf"
    return write_gguf(path, BASE, random_weights(BASE), "Q8_0")


@pytest.mark.parametrize("kernels", [None, "*=numpy"])
def test_they_equal_an_independent_forward_pass(path: Path, kernels: str | None) -> None:
    want = numpy_forward(BASE, random_weights(BASE), TOKENS)
    options: dict[str, Any] = {"compute": "float32", "kernels": kernels}
    model = load(path, hidden_layers=("final", 0, 1), **options)
    logits = logits_of(model, TOKENS)
    assert model.hidden.shape == (3, 256, 96)
    states = [want.normed, want.layers[0].state, want.layers[1].state]
    for ours, theirs in zip(model.hidden, states, strict=True):
        bound = 2e-5 * float(np.abs(theirs).max())  # float32 sums of at most 160 terms
        np.testing.assert_allclose(ours[: len(TOKENS)], theirs, atol=bound, rtol=0)
    np.testing.assert_array_equal(logits, logits_of(load(path, **options), TOKENS))


def test_rows_are_those_of_the_logits_and_the_bits_those_of_the_step(quantized: Path) -> None:
    """The head reads 8-bit blocks here; hidden rows are float32 all the same."""
    model = load(quantized, hidden_layers=(1, "final"))
    logits_of(model, TOKENS)
    whole = model.hidden[:, : len(TOKENS)].copy()
    state = inspect_step(load(quantized), TOKENS, attention=False).layers[1].state
    np.testing.assert_array_equal(whole[0], state)
    step(model, [(0, 0, TOKENS), (1, 0, TOKENS[:3])])
    model.batch.logit_rows[:3] = 42, 7, 39
    model.batch.counts[2] = 3
    model.forward()
    np.testing.assert_array_equal(model.hidden[:, :3], whole[:, [2, 7, 39]])


def test_nothing_is_recorded_or_allocated_when_off(path: Path) -> None:
    def ops_of(**options: Any) -> list[str]:
        return [call.kernel.op for call in load(path, **options).program().calls]

    plain, chosen = ops_of(), ops_of(hidden_layers=(0, "final"))
    assert "gather_rows" not in plain and len(chosen) == len(plain) + 2
    assert chosen.count("gather_rows") == 1
    model = load(path)
    assert model.hidden.nbytes == 0 and model.hidden.shape == (0, 256, 96)


@pytest.mark.parametrize("layer", [2, -1, "last"])
def test_layers_that_are_not_there(path: Path, layer: Any) -> None:
    with pytest.raises(RequestError, match=r'hidden_layers must be in 0\.\.1 or "final", got'):
        load(path, hidden_layers=(layer,))
