"""Gemma 4: layers that read the cache of others, what layers are told of the token itself, files
that lie, and bits that depend on nothing but the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks_of_bits import check_bits_of_a_context, check_pages_change_no_text
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.cli.info import describe
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes
from pyroclast.model.write_packed import write_packed
from stepping import load, logits_of, step
from tiny_gemma4 import BIASED, KEYS, PUBLISHED, TINY, read, write

TOKENS = np.random.default_rng(3).integers(0, 256, 150).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gemma4"), TINY)


# ---- what the file says --------------------------------------------------------------------


def test_the_layers_are_those_of_e2b() -> None:
    config = read(PUBLISHED)
    attentions = [spec.attention for spec in config.layers]
    assert list(config.caches) == list(range(15))
    assert {(a.cache_layer, a.window, a.head_dim) for a in attentions[15:]} == {
        (13, 512, 256),
        (14, None, 512),
    }
    assert [spec.ffn.d_ff for spec in config.layers] == [6144] * 15 + [12288] * 20
    assert attentions[0].score_scale == attentions[4].score_scale == 1
    whole, windowed = attentions[4].rope, attentions[0].rope
    assert whole is not None and windowed is not None
    assert (whole.theta, windowed.theta, windowed.freq_factors) == (1e6, 1e4, None)
    assert whole.freq_factors == (1.0,) * 64 + (1e30,) * 192


def test_sizes_of_each_layer_are_the_same_in_both_spellings() -> None:
    stated = {str(i): {"head_dim": 512} for i in range(4, 35, 5)}
    assert read(PUBLISHED, global_head_dim=None, per_layer_config=stated) == read(PUBLISHED)


def test_the_cache_has_no_pages_for_layers_that_read_another_s(folder: Path) -> None:
    model = load(folder, kv_dtype="f32", n_blocks=3)
    cells = 2 * 2 * 2 * (32 + 64)  # two layers of each kind, keys and values, two heads
    assert model.kv_bytes == 3 * BLOCK_SIZE * 4 * cells
    assert block_bytes(model.config, "f32") == BLOCK_SIZE * 4 * cells
    with open_checkpoint(folder) as checkpoint:
        told = describe(checkpoint)
    per_token = block_bytes(model.config, told["kv_dtype"]) / BLOCK_SIZE
    assert told["cannot_run"] is None
    assert told["kv_bytes_per_1000_tokens"] == 1000 * per_token


def test_keys_and_values_that_nothing_reads_are_left_out(tmp_path: Path, folder: Path) -> None:
    """Published files have them for every layer."""
    unread = {
        f"model.layers.5.self_attn.{name}.weight": np.full(shape, np.nan, np.float32)
        for name, shape in (("k_proj", (128, 96)), ("v_proj", (128, 96)), ("k_norm", (64,)))
    }
    path = write(tmp_path / "more", TINY, unread)
    want, got = (logits_of(load(each), TOKENS[:9]) for each in (folder, path))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_kv_shared_layers": 6}, r"n_sharing_layers must be a whole number in 1..5, got 6"),
        ({"num_kv_shared_layers": -1}, "n_sharing_layers must be a whole number"),
        ({"num_kv_shared_layers": 5}, "layer 1 has no window, as none of the first 1 layers has"),
        ({"vocab_size_per_layer_input": 319}, "has 319 rows, fewer than the vocabulary's 320"),
        ({"hidden_size_per_layer_input": 2**40}, "layer_input_width must be a whole number"),
        ({"global_head_dim": 63}, "head_dim must be even"),
        ({"num_key_value_heads": 3}, "n_heads must be a multiple of n_kv_heads 3"),
        ({"per_layer_config": {"1": 7}}, "per_layer_config must be an object"),
        ({"per_layer_config": {"5": {"head_dim": 16}}}, "its head_dim must be the same, 32"),
        ({"use_double_wide_mlp": "yes"}, "doubles_d_ff must be true or false"),
        (
            {"rope_parameters": {"full_attention": {
                "rope_type": "proportional", "partial_rotary_factor": 1.5}}},
            "partial_rotary_factor must be a number in 0.0..1.0, got 1.5",
        ),
    ],
)  # fmt: skip
def test_a_file_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all'"),
        ({"per_layer_config": {"0": {"mlp": 1}}}, "layer 0 has 'mlp'; supported: head_dim, num"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read(TINY, **changes)


# ---- bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"compute": "float32"}, {"threads": 2}])
def test_bits_depend_on_the_context_alone(folder: Path, options: dict[str, Any]) -> None:
    path = folder if "compute" in options else f"{folder}@q8_0"
    check_bits_of_a_context(path, TOKENS, **options)


def test_a_text_that_begins_alike_reads_its_pages(folder: Path) -> None:
    check_pages_change_no_text(folder, TOKENS)


def test_the_table_stays_quantized_and_quantizing_changes_little(folder: Path) -> None:
    model = load(f"{folder}@q8_0", kv_dtype="f16")  # some CPUs choose bf16
    inputs = model._weights.inputs
    assert inputs is not None and inputs.table.format == "q8_0"
    reference = logits_of(load(f"{folder}@q8_0", kernels="*=numpy", kv_dtype="f16"), TOKENS[:40])
    assert np.abs(logits_of(model, TOKENS[:40]) - reference).mean() < 0.03 * reference.std()


# ---- weights that a layer has in another way -----------------------------------------------


@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (TINY, "model.layers.1.layer_scalar", (1,)),
        (TINY, "model.embed_tokens_per_layer.weight", (320, 192)),
        (KEYS, "model.layers.1.self_attn.k_proj.weight", (64, 96)),  # of keys and of values
        (BIASED, "model.layers.1.self_attn.k_proj.bias", (64,)),  # likewise
    ],
)
def test_updated_weights_are_those_of_a_folder_that_has_them(
    tmp_path: Path, config: dict[str, Any], name: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32) / 4
    model = load(write(tmp_path / "before", config))
    before = logits_of(model, TOKENS[:9])
    want = logits_of(load(write(tmp_path / "after", config, {name: values})), TOKENS[:9])
    model.update(model.prepare_update({name: values}))
    got = logits_of(model, TOKENS[:9])
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, before)


def test_an_update_leaves_out_what_loading_leaves_out(folder: Path) -> None:
    """Published files have keys and values of layers that read another's cache."""
    model = load(folder)
    name, norm = "model.layers.5.self_attn.k_proj.weight", "model.layers.5.input_layernorm.weight"
    both = {name: np.zeros((128, 96), np.float32), norm: np.ones(96, np.float32)}
    before = logits_of(model, TOKENS[:9])
    model.update(model.prepare_update(both))
    assert not np.array_equal(logits_of(model, TOKENS[:9]), before)


@pytest.mark.parametrize("config", [TINY, KEYS, BIASED])
def test_a_converted_and_a_packed_file_are_the_same_model(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    source = write(tmp_path / "folder", config)
    want = logits_of(load(source), TOKENS)
    convert(str(source), str(tmp_path / "model.gguf"), "f32")
    write_packed(str(tmp_path / "model.gguf"), str(tmp_path / "model.pyro"))
    for name in ("model.gguf", "model.pyro"):
        np.testing.assert_array_equal(logits_of(load(tmp_path / name), TOKENS), want)


def test_an_adapter_changes_queries_where_there_are_no_keys(tmp_path: Path) -> None:
    """And keys and values alike where one product gives both: as in a folder with the sum."""
    for config, layer, product, rows in ((TINY, 5, "q_proj", 256), (KEYS, 1, "k_proj", 64)):
        name = f"model.layers.{layer}.self_attn.{product}.weight"
        path = write(tmp_path / product, config)
        with open_checkpoint(path) as checkpoint:
            ours = {"q_proj": "wq", "k_proj": "wk"}[product]
            weight = checkpoint.tensors[f"layers.{layer}.{ours}"].float32()
        rng = np.random.default_rng(2)
        a, b = rng.standard_normal((2, 96), np.float32), rng.standard_normal((rows, 2), np.float32)
        summed = write(tmp_path / f"{product}-sum", config, {name: weight + b @ a / 10})
        want = logits_of(load(summed, compute="float32"), TOKENS[:20])
        slots = AdapterSlots(1, 2)
        model = load(path, compute="float32", adapters=slots)
        model.adapters.set(0, {f"layers.{layer}.{ours}": (a, b)}, 0.1)
        step(model, [(0, 0, TOKENS[:20])])  # writes the batch
        model.adapters.assign([0])
        [got] = step(model, [(0, 0, TOKENS[:20])])
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
