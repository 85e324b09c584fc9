"""Folders whose tensors have other names than the tables, or another head than config.json says."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError
from pyroclast.families.hf_names import table_names
from pyroclast.families.registry import FAMILIES
from stepping import load, logits_of

TIED = tiny.CONFIGS["llama-tied"]
TOKENS = [1, 2, 3, 4]


def write(folder: Path, tensors: tiny.Weights) -> Path:
    """A tied model whose file has these tensors."""
    tiny.write_folder(folder, TIED, tiny.random_weights(TIED))
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def stored(config: tiny.Hyperparameters = TIED) -> tiny.Weights:
    """The model's tensors by the folder's names."""
    names = FAMILIES[config.family].hf_tensors
    weights = tiny.random_weights(config)
    return {
        names[tiny._template(name)].format(i=tiny._layer(name)): values
        for name, values in weights.items()
    }


def logits(folder: Path) -> NDArray[np.float32]:
    return logits_of(load(folder, compute="float32"), TOKENS)


def test_a_head_alone_stands_for_both(tmp_path: Path) -> None:
    tensors = stored()
    want = logits(write(tmp_path / "a", tensors))
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    np.testing.assert_array_equal(logits(write(tmp_path / "b", tensors)), want)


def test_a_head_that_repeats_the_embedding_is_not_used(tmp_path: Path) -> None:
    tensors = stored()
    want = logits(write(tmp_path / "a", tensors))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = write(tmp_path / "b", tensors)
        assert open_checkpoint(folder).config.tie_embeddings
    np.testing.assert_array_equal(logits(folder), want)


def test_a_head_of_its_own_is_used_whatever_the_config_says(tmp_path: Path) -> None:
    """It differs in its last value only."""
    tensors = stored()
    tied = logits(write(tmp_path / "a", tensors))
    head = tensors["model.embed_tokens.weight"].copy()
    head[-1, -1] += 8
    folder = write(tmp_path / "b", tensors | {"lm_head.weight": head})
    with pytest.warns(RuntimeWarning, match=r"tie_word_embeddings is true, but 'lm_head.weight'"):
        got = logits(folder)
    np.testing.assert_array_equal(got[:, :-1], tied[:, :-1])
    assert (got[:, -1] != tied[:, -1]).all()


def test_untied_without_a_head_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", stored())
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"'lm_head.weight' is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_other_prefixes_of_the_same_tensors(tmp_path: Path, prefix: str) -> None:
    tensors = stored()
    want = logits(write(tmp_path / "a", tensors))
    renamed = {prefix + name.removeprefix("model."): each for name, each in tensors.items()}
    np.testing.assert_array_equal(logits(write(tmp_path / "b", renamed)), want)


def test_names_of_a_model_that_sees() -> None:
    names = {
        "language_model.model.norm.weight": "model.norm.weight",
        "model.language_model.norm.bias": "model.norm.bias",
        "language_model.lm_head.weight": "lm_head.weight",
        "lm_head.weight": "lm_head.weight",
    }
    others = ["vision_tower.a", "model.vision_tower.b", "multi_modal_projector.c"]
    assert table_names(FAMILIES["llama"], [*names, *others]) == names


def test_errors_name_the_tensor_as_the_file_does(tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): each for name, each in stored().items()}
    tensors["norm.weight"] = np.ones(7, np.float32)
    with pytest.raises(ModelFileError, match=r"tensor 'norm.weight' has shape \(7,\)"):
        open_checkpoint(write(tmp_path / "a", tensors))


def test_output_bias_of_llama(tmp_path: Path) -> None:
    """attention_bias of a Llama also biases o_proj."""
    config = replace(tiny.BASE, qkv_bias=True, o_bias=True)
    folder = tiny.write_folder(tmp_path / "m", config, tiny.random_weights(config))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_bias": True}))
    assert "layers.1.bo" in open_checkpoint(folder).tensors
    tiny.write_folder(folder, replace(config, o_bias=False), tiny.random_weights(
        replace(config, o_bias=False)))  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_bias": True}))
    with pytest.raises(ModelFileError, match=r"o_proj.bias' is missing"):
        open_checkpoint(folder)
