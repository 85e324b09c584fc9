"""Models with a published shape and random weights."""

import numpy as np
import pytest

from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError
from pyroclast_kernels.weights import formats


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
