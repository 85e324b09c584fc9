"""Checkpoints of every family through both file formats: weights, rows, conversion at load."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from checkpoint_files import gguf_file, hf_folder
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.checkpoint.tensor import Scratch, Tensor, TransposedRows
from pyroclast.errors import ClosedError, ModelFileError
from pyroclast.families.registry import config_of
from pyroclast.families.rope import inv_freq
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.weights import formats

NAMES = list(tiny.CONFIGS)


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


def test_a_path_of_any_kind_names_a_model(tmp_path: Path) -> None:
    class Wrapped:
        def __fspath__(self) -> str:
            return str(gguf_file(tmp_path))

    with open_checkpoint(Wrapped()) as checkpoint:  # type: ignore[arg-type]
        assert checkpoint.tensors


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


# -- opening ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_the_tokenizer_comes_with_the_weights(tmp_path: Path, source: str) -> None:
    path = hf_folder(tmp_path) if source == "folder" else gguf_file(tmp_path)
    with open_checkpoint(path) as checkpoint:
        tokenizer = checkpoint.tokenizer()
        ids = tokenizer.encode("the land", add_special_tokens=False)
        assert tokenizer.decode(ids) == "the land"
        assert tiny.vocabulary(checkpoint.hyperparameters)[ids[0]] == "the"
        assert tokenizer.eos_token_ids == frozenset({257})
