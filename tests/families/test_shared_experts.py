"""The expert that all tokens share: adapters on it, and names that either kind of file gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from family_folders import FamilyFolders
from stepping import load, logits_of, step

pytestmark = pytest.mark.oracle
pytest.importorskip("torch", reason="`make oracle-deps` installs torch")

TOKENS = np.random.default_rng(5).integers(0, 256, 24).tolist()


@pytest.fixture(scope="module")
def folder(family_folders: FamilyFolders) -> Path:
    return family_folders("granite-moe-shared")


def test_an_adapter_on_it_is_the_sum_of_the_weights(folder: Path) -> None:
    from pyroclast.checkpoint.open import open_checkpoint
    from pyroclast.model.adapters import AdapterSlots

    with open_checkpoint(folder) as checkpoint:
        weight = checkpoint.tensors["layers.1.w_down"].float32()
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, weight.shape[1])).astype(np.float32)
    b = rng.standard_normal((weight.shape[0], 2)).astype(np.float32)
    summed = load(folder, compute="float32")
    name = "model.layers.1.shared_mlp.output_linear.weight"
    summed.update(summed.prepare_update({name: weight + b @ a / 10}))
    want = logits_of(summed, TOKENS)
    model = load(folder, compute="float32", adapters=AdapterSlots(1, 2))
    plain = logits_of(model, TOKENS)
    model.adapters.set(0, {"layers.1.w_down": (a, b)}, 0.1)
    step(model, [(0, 0, TOKENS)])  # writes the batch
    model.adapters.assign([0])
    [got] = step(model, [(0, 0, TOKENS)])
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(got - plain).max() > 1e-2 * np.abs(want).max()


def test_a_gguf_file_takes_the_names_of_the_folder(folder: Path, tmp_path: Path) -> None:
    from pyroclast.checkpoint.convert.run import convert

    convert(str(folder), str(tmp_path / "model.gguf"), "f32")
    model, other = load(tmp_path / "model.gguf"), load(folder)
    np.testing.assert_array_equal(logits_of(model, TOKENS), logits_of(other, TOKENS))
    shape = model.config.d_model, model.config.layers[1].experts.shared_d_ff
    change = {"model.layers.1.shared_mlp.output_linear.weight": np.zeros(shape, np.float32)}
    for each in (model, other):
        each.update(each.prepare_update(change))
    np.testing.assert_array_equal(logits_of(model, TOKENS), logits_of(other, TOKENS))
