"""Folders and GGUF files as people have them: which matrix is the head, names without a prefix,
biases, windows of some layers, scaling without a type.  transformers says what is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from model.test_oracle import oracle_logits
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError
from stepping import load, logits_of

TOKENS = np.random.default_rng(3).integers(0, 256, 60).tolist()
TIED = replace(tiny.BASE, tie_embeddings=True)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOLERANCE = 2e-4  # as in test_oracle.py


def folder_of(
    folder: Path, config: Any, tensors: dict[str, np.ndarray] | None = None, **changes: Any
) -> Path:
    """A folder of a tiny model; tensors replace those of the file, changes are of config.json."""
    tiny.write_folder(folder, config, tiny.random_weights(config))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if tensors is not None:
        tiny.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def hf_tensors(config: Any) -> dict[str, np.ndarray]:
    """The weights under a folder's names."""
    family = tiny.FAMILIES[config.family]
    return {
        family.hf_tensors[tiny._template(name)].format(i=tiny._layer(name)): values
        for name, values in tiny.random_weights(config).items()
    }


def logits(path: Path) -> Any:
    return logits_of(load(path, compute="float32"), TOKENS)


def assert_equals_transformers(path: Path) -> Any:
    want, got = oracle_logits(path, TOKENS), logits(path)
    assert float(want.std()) > 0.1
    np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=0)
    return got


# -- the output head -------------------------------------------------------------------------


def test_a_tied_matrix_that_is_stored_as_the_head_alone(tmp_path: Path) -> None:
    tensors = hf_tensors(TIED)
    tensors[HEAD] = tensors.pop(EMBEDDING)
    usual = logits(folder_of(tmp_path / "usual", TIED))
    assert logits(folder_of(tmp_path / "head", TIED, tensors)).tobytes() == usual.tobytes()


def test_a_tied_matrix_that_is_stored_twice_is_one(tmp_path: Path) -> None:
    tensors = hf_tensors(TIED)
    tensors[HEAD] = tensors[EMBEDDING].copy()
    with open_checkpoint(folder_of(tmp_path, TIED, tensors)) as checkpoint:  # a warning would fail
        assert "output" not in checkpoint.tensors and checkpoint.config.tie_embeddings


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["one value", "another type"])
def test_a_head_that_differs_is_used_and_said(tmp_path: Path, change: str) -> None:
    tensors = hf_tensors(TIED)
    head = tensors[EMBEDDING].copy()
    if change == "one value":
        head[-1, -1] += 4
    else:
        head = np.roll(head, 1)
    path = folder_of(tmp_path, TIED, tensors | {HEAD: head})
    with pytest.warns(RuntimeWarning, match=r"tie_word_embeddings.*lm_head\.weight.*differs"):
        got = logits(path)
    np.testing.assert_allclose(got, oracle_logits(path, TOKENS), atol=TOLERANCE, rtol=0)
    tied = logits(folder_of(tmp_path / "tied", TIED))
    assert np.abs(got - tied).max() > 0.1


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_a_head_of_another_shape_is_an_error(tmp_path: Path) -> None:
    tensors = hf_tensors(TIED)
    path = folder_of(tmp_path, TIED, tensors | {HEAD: tensors[EMBEDDING][:7]})
    with pytest.raises(ModelFileError, match=r"lm_head\.weight' has shape \(7, 96\)"):
        open_checkpoint(path)


def test_no_embedding_at_all_is_an_error(tmp_path: Path) -> None:
    tensors = hf_tensors(TIED)
    del tensors[EMBEDDING]
    with pytest.raises(ModelFileError, match=f"tensor '{EMBEDDING}' is missing"):
        open_checkpoint(folder_of(tmp_path, TIED, tensors))


def test_only_a_head_where_nothing_is_tied_is_an_error(tmp_path: Path) -> None:
    tensors = hf_tensors(tiny.BASE)
    del tensors[EMBEDDING]
    with pytest.raises(ModelFileError, match=f"tensor '{EMBEDDING}' is missing"):
        open_checkpoint(folder_of(tmp_path, tiny.BASE, tensors))


# -- names and biases ------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TIED, tiny.BASE], ids=["tied", "with a head"])
def test_names_without_their_first_part(tmp_path: Path, config: Any) -> None:
    tensors = {k.removeprefix("model."): v for k, v in hf_tensors(config).items()}
    usual = logits(folder_of(tmp_path / "usual", config))
    assert logits(folder_of(tmp_path / "bare", config, tensors)).tobytes() == usual.tobytes()


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "keys", [("attention_bias",), ("mlp_bias",), ("attention_bias", "mlp_bias")]
)
def test_biases_of_llama(tmp_path: Path, keys: tuple[str, ...]) -> None:
    tensors, rng = hf_tensors(tiny.BASE), np.random.default_rng(8)
    parts = {"attention_bias": "self_attn", "mlp_bias": "mlp"}
    for name in [n for n in tensors if any(f".{parts[key]}." in n for key in keys)]:
        size = tensors[name].shape[0]
        tensors[name.replace(".weight", ".bias")] = rng.standard_normal(size).astype(np.float32)
    assert any("o_proj.bias" in name for name in tensors) == ("attention_bias" in keys)
    path = folder_of(tmp_path, tiny.BASE, tensors, **dict.fromkeys(keys, True))
    got = assert_equals_transformers(path)
    assert np.abs(got - logits(folder_of(tmp_path / "none", tiny.BASE))).max() > 0.1


# -- windows ---------------------------------------------------------------------------------

FULL, WINDOWED = "full_attention", "sliding_attention"
ON = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("qwen2", {"sliding_window": 8}, (None, None)),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, (None, None)),
        ("qwen2", ON, (None, None)),  # max_window_layers is 28
        ("qwen2", ON | {"max_window_layers": 1}, (None, 8)),
        ("qwen2", ON | {"max_window_layers": 0}, (8, 8)),
        ("qwen2", ON | {"max_window_layers": 2}, (None, None)),
        ("qwen2", ON | {"layer_types": [WINDOWED, FULL]}, (8, None)),
        ("qwen2", ON | {"layer_types": [WINDOWED, FULL], "max_window_layers": 1}, (8, None)),
        ("qwen2", {"layer_types": [FULL, FULL], "sliding_window": 8}, (None, None)),
        ("mistral", {"sliding_window": 8}, (8, 8)),
        ("mistral", {"sliding_window": None}, (None, None)),
        ("mistral", {"sliding_window": 8, "use_sliding_window": False}, (8, 8)),
        ("mistral", {"sliding_window": 8, "max_window_layers": 1}, (8, 8)),
        ("llama", ON, (None, None)),
        ("llama", ON | {"layer_types": [WINDOWED, FULL]}, (None, None)),
    ],
)
def test_windows(
    tmp_path: Path, family: str, changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    config = replace(tiny.CONFIGS[family], n_layers=2, sliding_window=None)
    path = folder_of(tmp_path, config, **changes)
    with open_checkpoint(path) as checkpoint:
        layers = checkpoint.config.layers
        assert tuple(spec.attention.window for spec in layers) == windows
    assert_equals_transformers(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (ON | {"sliding_window": -8}, "sliding_window must be a whole number in 1..*got -8"),
        (ON | {"sliding_window": 0}, "sliding_window must be a whole number in 1..*got 0"),
        (ON | {"sliding_window": 2.5}, "sliding_window must be a whole number in 1..*got 2.5"),
        (ON | {"sliding_window": True}, "sliding_window must be a whole number in 1..*got True"),
        (ON | {"max_window_layers": "all"}, "max_window_layers must be a whole number, got 'all'"),
        (ON | {"layer_types": [WINDOWED]}, "layer"),
        (ON | {"layer_types": [WINDOWED] * 3}, "layer"),
        (ON | {"layer_types": [WINDOWED, "chunked_attention"]}, "chunked_attention"),
        (ON | {"layer_types": [WINDOWED, 7]}, "7"),
        (ON | {"layer_types": "sliding_attention"}, "layer_types must be a list"),
        ({"use_sliding_window": "no"}, "use_sliding_window must be true or false, got 'no'"),
    ],
)
def test_windows_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = folder_of(tmp_path, tiny.CONFIGS["qwen2"], **({"max_window_layers": 0} | changes))
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(path)


# -- rotary positions ------------------------------------------------------------------------


def with_keys(
    path: Path, config: Any, monkeypatch: pytest.MonkeyPatch, **keys: float | str
) -> Path:
    """A GGUF file with further keys of its rope."""
    usual = tiny._add_gguf_config

    def add(writer: gguf.GGUFWriter, arch: str, config: Any) -> None:
        usual(writer, arch, config)
        for key, value in keys.items():
            name = f"{arch}.rope.{key.replace('__', '.')}"
            add_value = writer.add_string if isinstance(value, str) else writer.add_float32
            add_value(name, value)

    monkeypatch.setattr(tiny, "_add_gguf_config", add)
    return tiny.write_gguf(path, config, tiny.random_weights(config))


@pytest.mark.parametrize(
    ("keys", "scaled"),
    [
        ({"scaling__factor": 4.0}, True),
        ({"scaling__factor": 4.0, "scaling__type": "linear"}, True),
        ({"scale_linear": 4.0}, True),
        ({"scaling__factor": 4.0, "scaling__type": "none"}, False),
        ({"scaling__factor": 1.0}, False),
        ({"scaling__factor": 0.0, "scaling__type": "linear"}, False),  # as in llama.cpp
        ({}, False),
    ],
)
def test_a_factor_without_a_type_is_linear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], scaled: bool
) -> None:
    plain, linear = tiny.BASE, tiny.CONFIGS["llama-linear"]
    assert linear.rope_scaling is not None and linear.rope_scaling.factor == 4
    path = with_keys(tmp_path / "m.gguf", plain, monkeypatch, **keys)
    wanted = logits(folder_of(tmp_path / "folder", linear if scaled else plain))
    np.testing.assert_allclose(logits(path), wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -4.0])
def test_gguf_factors_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    path = with_keys(
        tmp_path / "m.gguf", tiny.BASE, monkeypatch, scaling__factor=factor, scaling__type="linear"
    )
    with pytest.raises(ModelFileError, match="rope scaling factor must be a number in"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear", "factor": float("nan")}, "factor must be a number in"),
        ({"rope_type": "linear", "factor": -2}, "factor must be a number in"),
        ({"rope_type": "linear", "factor": "4"}, "factor must be a number in"),
        ({"rope_type": "linear", "factor": [4.0]}, "factor must be a number in"),
        ({"rope_type": "linear"}, "'factor' is missing in the linear rope scaling"),
        ({"rope_type": "ntk-by-parts", "factor": 2}, "rope type 'ntk-by-parts' is not supported"),
        ({"rope_type": ["linear"], "factor": 2}, r"rope type \['linear'\] is not supported"),
        ([1, 2], "rope_scaling must be an object"),
        ({"rope_type": "default", "rope_theta": float("nan")}, "rope_theta must be a number in"),
    ],
)
def test_scalings_that_make_no_sense(tmp_path: Path, rope: Any, message: str) -> None:
    path = folder_of(tmp_path, tiny.BASE, rope_scaling=rope)
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(path)
