"""Gemma 3n: residual streams and sparse gates, files that lie, and bits that depend on nothing but
the context."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tiny
from checks_of_bits import check_bits_of_a_context, check_pages_change_no_text
from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.cli.info import describe
from pyroclast.errors import ModelFileError, RequestError, UnsupportedModelError
from pyroclast.model.inspect import inspect_step
from pyroclast.model.kv_cache import block_bytes
from pyroclast.model.write_packed import write_packed
from stepping import load, logits_of
from tiny_gemma3n import N_ROWS, PUBLISHED, TINY, read, write

TOKENS = np.random.default_rng(3).integers(0, 256, 150).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gemma3n"), TINY)


# ---- what the file says --------------------------------------------------------------------


def test_the_layers_are_those_of_e2b() -> None:
    config = read(PUBLISHED)
    attentions = [spec.attention for spec in config.layers]
    assert list(config.caches) == list(range(20))
    shared = {(a.cache_layer, a.window, a.head_dim) for a in attentions[20:]}
    assert shared == {(18, 512, 256), (19, None, 256)}
    assert [spec.ffn.d_ff for spec in config.layers] == [8192] * 30
    cuts = [spec.ffn.sparsity for spec in config.layers]
    assert cuts[10:] == [None] * 20 and cuts[:10] == [pytest.approx(1.6448536)] * 10
    assert attentions[0].score_scale == attentions[4].score_scale == 1
    whole, windowed = attentions[4].rope, attentions[0].rope
    assert whole is not None and windowed is not None
    assert (whole.theta, windowed.theta) == (1e6, 1e4)
    assert config.streams is not None and config.layer_input is not None
    assert (config.streams.n, config.streams.scales, config.logit_softcap) == (4, True, 30)
    assert config.layers[0].laurel_rank == 64
    assert (config.layer_input.n_rows, config.layer_input.n_stored) == (262400, 262144)


def test_what_a_file_leaves_out_is_e4b() -> None:
    config = read({"model_type": "gemma3n_text"})
    assert config == read(
        {"model_type": "gemma3n_text"},
        num_hidden_layers=35,
        num_kv_shared_layers=15,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7,
        intermediate_size=[16384] * 35,
        activation_sparsity_pattern=[0.95] * 10 + [0.0] * 25,
    )


def test_the_text_model_of_a_model_that_sees_and_hears(tmp_path: Path, folder: Path) -> None:
    """Its other parts are left out."""
    extra = {
        f"model.{part}.weight": np.full((2, 2), np.nan, np.float32)
        for part in (
            "vision_tower.stem",
            "audio_tower.conformer",
            "embed_vision.e",
            "embed_audio.e",
        )
    }
    path = write(tmp_path / "nested", TINY, extra)
    text = {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n"}
    (path / "config.json").write_text(json.dumps(text | {"text_config": TINY}))
    want, got = (logits_of(load(each), TOKENS[:9]) for each in (folder, path))
    np.testing.assert_array_equal(got, want)
    with open_checkpoint(path) as checkpoint:
        told = describe(checkpoint)
        assert told["cannot_run"] is None
        size = block_bytes(checkpoint.config, told["kv_dtype"])
    assert told["kv_bytes_per_1000_tokens"] == 1000 * size / 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_kv_shared_layers": 6}, r"n_sharing_layers must be a whole number in 1..5, got 6"),
        ({"num_kv_shared_layers": 5}, "layer 1 has no window, as none of the first 1 layers has"),
        ({"altup_num_inputs": 1}, r"residual streams must be in 2..8, got 1"),
        ({"altup_num_inputs": 9}, "residual streams must be a whole number in 1..8, got 9"),
        ({"altup_correct_scale": 1}, "scales_streams must be true or false, got 1"),
        ({"laurel_rank": 0}, "laurel_rank must be a whole number"),
        ({"hidden_size_per_layer_input": 2**40}, "layer_input_width must be a whole number"),
        (
            {"vocab_size_per_layer_input": 2**40},
            "rows of the table of layer inputs must be a whole number",
        ),
        ({"intermediate_size": [160] * 5}, "intermediate_size has 5 values for 6 layers"),
        ({"intermediate_size": [160, 96]}, "d_ff of 2 layers, and says that there are 6"),
        ({"intermediate_size": [160] * 5 + ["x"]}, "d_ff must be a whole number"),
        ({"activation_sparsity_pattern": [0.95]}, "a number for each of 6 layers"),
        ({"activation_sparsity_pattern": 0.95}, "a number for each of 6 layers, got 0.95"),
        ({"activation_sparsity_pattern": [1.0] * 6}, "must be below 1"),
        ({"activation_sparsity_pattern": [math.nan] * 6}, "activation_sparsity_pattern must be"),
        ({"activation_sparsity_pattern": [True] * 6}, "a number for each of 6 layers"),
        ({"num_key_value_heads": 3}, "n_heads must be a multiple of n_kv_heads 3"),
    ],
)
def test_a_file_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"altup_active_idx": 1}, "the residual stream that layers change must be number 0, got 1"),
        ({"layer_types": ["linear_attention"] * 6}, "layers of type linear_attention"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read(TINY, **changes)


def test_streams_without_per_layer_embeddings_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TINY | {"hidden_size_per_layer_input": 0})
    with pytest.raises(UnsupportedModelError, match="4 residual streams and nothing that layers"):
        load(path)


# ---- bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"compute": "float32"}, {"threads": 2}])
def test_bits_depend_on_the_context_alone(folder: Path, options: dict[str, Any]) -> None:
    path = folder if "compute" in options else f"{folder}@q8_0"
    check_bits_of_a_context(path, TOKENS, **options)


def test_a_text_that_begins_alike_reads_its_pages(folder: Path) -> None:
    check_pages_change_no_text(folder, TOKENS)


def test_kernels_and_reference_agree(folder: Path) -> None:
    """Also on 8-bit weights, and with kernels of Numba for what is new."""
    numba = ",".join(
        f"{op}=numba" for op in ("altup_predict", "altup_correct", "match_rms", "sparse_gate")
    )
    for path, kernels, limit in ((f"{folder}@q8_0", "", 0.03), (folder, numba, 1e-4)):
        options = {"kv_dtype": "f16"} if kernels == "" else {"compute": "float32"}
        reference = logits_of(load(path, kernels="*=numpy", **options), TOKENS[:40])
        got = logits_of(load(path, kernels=kernels, **options), TOKENS[:40])
        assert np.abs(got - reference).mean() < limit * reference.std()


def test_a_step_can_be_looked_into(folder: Path) -> None:
    """The last layer's state is what the output reads, hence its logits are the model's."""
    model = load(folder, compute="float32")
    expected = logits_of(model, TOKENS[:9])
    found = inspect_step(model, TOKENS[:9], logits=True)
    np.testing.assert_array_equal(found.layers[model.config.n_layers - 1].logits, expected)
    assert all(np.isfinite(layer.logits).all() for layer in found.layers.values())


# ---- weights -------------------------------------------------------------------------------


def test_tokens_beyond_the_table_have_its_first_row(tmp_path: Path) -> None:
    """As in a folder that says so at length."""
    short = write(tmp_path / "short", TINY)
    with open_checkpoint(short) as checkpoint:
        table = checkpoint.tensors["layer_embd"].float32()
    assert table.shape[0] == 320
    np.testing.assert_array_equal(table[N_ROWS:], np.repeat(table[:1], 320 - N_ROWS, axis=0))
    name = "model.embed_tokens_per_layer.weight"
    long = write(tmp_path / "long", TINY | {"vocab_size_per_layer_input": 320}, {name: table})
    tokens = [*range(195, 205), 319, 256]
    np.testing.assert_array_equal(logits_of(load(short), tokens), logits_of(load(long), tokens))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens_per_layer.weight", (N_ROWS, 192)),
        ("model.altup_projections.1.weight", (96, 96)),
        ("model.altup_unembed_projections.2.weight", (96, 96)),
        ("model.layers.1.laurel.linear_right.weight", (96, 64)),
        ("model.layers.1.altup.prediction_coefs.weight", (16, 4)),
        ("model.layers.5.altup.correct_output_scale", (96,)),
    ],
)
def test_updated_weights_are_those_of_a_folder_that_has_them(
    tmp_path: Path, folder: Path, name: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32) / 4
    model = load(folder)
    before = logits_of(model, TOKENS[:9])
    want = logits_of(load(write(tmp_path / "after", TINY, {name: values})), TOKENS[:9])
    model.update(model.prepare_update({name: values}))
    got = logits_of(model, TOKENS[:9])
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, before)


def test_a_converted_and_a_packed_file_are_the_same_model(tmp_path: Path, folder: Path) -> None:
    want = logits_of(load(folder), TOKENS)
    [note] = convert(str(folder), str(tmp_path / "model.gguf"), "f32").notes
    assert "llama.cpp refuses files of architecture 'gemma3n' without the keys" in note
    write_packed(str(tmp_path / "model.gguf"), str(tmp_path / "model.pyro"))
    for name in ("model.gguf", "model.pyro"):
        np.testing.assert_array_equal(logits_of(load(tmp_path / name), TOKENS), want)


def test_a_gguf_file_takes_the_weights_of_its_folder(tmp_path: Path, folder: Path) -> None:
    """Whose table of layer inputs has fewer rows."""
    convert(str(folder), str(tmp_path / "model.gguf"), "f32")
    model, name = load(tmp_path / "model.gguf"), "model.embed_tokens_per_layer.weight"
    want, tensors = logits_of(model, TOKENS[:9]), load_file(folder / "model.safetensors")
    model.update(model.prepare_update({name: 2 * tensors[name]}))
    assert not np.array_equal(logits_of(model, TOKENS[:9]), want)
    model.update(model.prepare_update(tensors))
    np.testing.assert_array_equal(logits_of(model, TOKENS[:9]), want)
    for n_rows in (0, 321):
        with pytest.raises(RequestError, match="embed_tokens_per_layer"):
            model.prepare_update({name: np.ones((n_rows, 192), np.float32)})


def test_adapters_may_change_keys_that_nobody_reads(tmp_path: Path, folder: Path) -> None:
    """As those of a program that makes keys and values for every layer."""
    rng, tensors = np.random.default_rng(0), {}
    for i in range(6):
        for name, n_rows in (("q_proj", 128), ("k_proj", 64), ("v_proj", 64)):
            prefix = f"base_model.model.model.layers.{i}.self_attn.{name}.lora_"
            tensors[prefix + "A.weight"] = rng.standard_normal((2, 96)).astype(np.float32)
            tensors[prefix + "B.weight"] = rng.standard_normal((n_rows, 2)).astype(np.float32)
    tiny.write_safetensors(tmp_path / "adapter_model.safetensors", tensors)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    settings["target_modules"] = ["q_proj", "k_proj", "v_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    greedy = SamplingParams(temperature=0, max_tokens=3)
    with LLM(folder, adapters={"a": tmp_path}) as llm:
        plain, changed = (llm.generate([TOKENS[:9]], greedy, adapter=a)[0] for a in (None, "a"))
    assert plain.token_ids != changed.token_ids


def test_a_gguf_file_cannot_say_another_rank(tmp_path: Path) -> None:
    path = write(tmp_path / "folder", TINY | {"laurel_rank": 32})
    with pytest.raises(UnsupportedModelError, match=r"no way to say that layers\[0\].laurel_rank"):
        convert(str(path), str(tmp_path / "model.gguf"), "f32")
