"""A conversion that merges an adapter: the weights, the logits, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from lora_files import merged, peft_tensors, random_pairs, write_gguf, write_peft
from pyroclast import LLM
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast_kernels.weights.encode import encode
from tiny import BASE, CONFIGS

PROMPT = np.random.default_rng(5).integers(0, 256, 60).tolist()
SCALE = 2.0  # alpha 6 over rank 3


def weights_of(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        return {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}


def model_of(path: Path, config: Any, kind: str) -> Path:
    """A folder, or a GGUF file."""
    weights = tiny.random_weights(config)
    if kind == "folder":
        return tiny.write_folder(path / "folder", config, weights)
    return tiny.write_gguf(path / "base.gguf", config, weights)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("name", ["llama", "llama-wide-head", "qwen2", "mistral"])
def test_weights_and_logits_are_those_of_the_adapter(tmp_path: Path, name: str, kind: str) -> None:
    config = CONFIGS[name]
    pairs, base = random_pairs(config, 3), tiny.random_weights(config)
    source = model_of(tmp_path, config, kind)
    adapter = write_peft(tmp_path / "adapter", pairs)
    target = tmp_path / "merged.gguf"
    convert(str(source), str(target), "f32", adapter=str(adapter))
    found, want = weights_of(target), merged(base, pairs, SCALE)
    assert found.keys() == want.keys()
    for key, values in found.items():
        if key not in pairs:
            np.testing.assert_array_equal(values, base[key])
            continue
        a, b = (np.abs(each).astype(np.float64) for each in pairs[key])
        # Rounded: the scaled B, three products and their sums, and the sum with W.
        bound = 5 * np.finfo(np.float32).eps * (np.abs(base[key]) + SCALE * b @ a)
        assert (np.abs(values - want[key]) <= bound).all()
        assert np.abs(values - base[key]).max() > 0.1
    with LLM(source, compute="float32", adapters={"a": adapter}) as llm:
        unmerged = llm.logits(PROMPT, adapter="a")
    with LLM(target, compute="float32") as llm:
        # Float32 sums of at most 160 terms, and of the adapter's own, through two layers.
        bound = 4e-5 * np.abs(unmerged).max()
        np.testing.assert_allclose(llm.logits(PROMPT), unmerged, atol=bound, rtol=0)


@pytest.mark.parametrize("to", ["q8_0", "q4_0", "bf16"])
def test_the_sum_is_what_is_encoded(tmp_path: Path, to: str) -> None:
    """W + scale * B @ A in float32, not the encoded W; both formats of an adapter are the same."""
    pairs, base = random_pairs(BASE, 3, ("wq", "w_down")), tiny.random_weights(BASE)
    source = model_of(tmp_path, BASE, "folder")
    peft = write_peft(tmp_path / "adapter", pairs)
    file = write_gguf(tmp_path / "adapter.gguf", BASE, pairs)
    for target, adapter in (("a.gguf", peft), ("b.gguf", file)):
        convert(str(source), str(tmp_path / target), to, adapter=str(adapter), threads=2)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        for name, (a, b) in pairs.items():
            values = base[name] + np.float32(SCALE) * b @ a
            want = encode(values, to)
            got = checkpoint.tensors[name].rows()
            # A sum in another order may round a few values to the next code.
            assert (got != want).mean() < 0.01 < (got != encode(base[name], to)).mean()


def test_products_of_a_fused_matrix_are_merged_where_they_lie(tmp_path: Path) -> None:
    config = replace(BASE, family="phi3")
    base = tiny.random_weights(config)
    source = tiny.write_folder(tmp_path / "folder", config, base)
    pairs = random_pairs(config, 3, ("wo", "w_down"))
    tensors, rng = peft_tensors(pairs), np.random.default_rng(3)
    added = {}
    for i in range(BASE.n_layers):
        start = f"base_model.model.model.layers.{i}.self_attn.qkv_proj"
        a, b = rng.standard_normal((3, 96)), rng.standard_normal((160, 3))
        tensors |= {f"{start}.lora_A.weight": a.astype("f4")}
        tensors |= {f"{start}.lora_B.weight": b.astype("f4")}
        for name, rows in (("wq", b[:96]), ("wk", b[96:128]), ("wv", b[128:])):
            added[f"layers.{i}.{name}"] = a.astype("f4"), rows.astype("f4")
    fields = {"target_modules": ["qkv_proj", "o_proj", "down_proj"]}
    adapter = write_peft(tmp_path / "adapter", pairs, tensors=tensors, config=fields)
    convert(str(source), str(tmp_path / "m.gguf"), "f32", adapter=str(adapter))
    found = weights_of(tmp_path / "m.gguf")
    for name, want in merged(base, {**pairs, **added}, SCALE).items():
        np.testing.assert_allclose(found[name], want, atol=1e-5, rtol=0)


def test_an_adapter_of_a_model_with_recurrent_layers(tmp_path: Path) -> None:
    """Attention in one layer, and a feed-forward in all."""
    pytest.importorskip("transformers", reason="pip install '.[test]'")
    import tiny_families

    source, target, rng = tmp_path / "folder", tmp_path / "m.gguf", np.random.default_rng(5)
    tiny_families.write_folder(source, "qwen3_5")
    shapes = {"layers.3.wk": (64, 96)} | {f"layers.{i}.w_down": (96, 160) for i in range(4)}
    pairs = {
        name: tuple(
            (rng.standard_normal(shape) / 9).astype(np.float32) for shape in ((3, cols), (rows, 3))
        )
        for name, (rows, cols) in shapes.items()
    }
    adapter = write_peft(tmp_path / "adapter", pairs)
    with open_checkpoint(source) as checkpoint:
        base = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    convert(str(source), str(target), "f32", adapter=str(adapter))
    found = weights_of(target)
    for name, want in merged({each: base[each] for each in pairs}, pairs, SCALE).items():
        np.testing.assert_allclose(found[name], want, atol=1e-5, rtol=0)
    with LLM(source, compute="float32", adapters={"a": adapter}) as llm:
        unmerged = llm.logits(PROMPT, adapter="a")
    with LLM(target, compute="float32") as llm:
        bound = 1e-4 * np.abs(unmerged).max()
        np.testing.assert_allclose(llm.logits(PROMPT), unmerged, atol=bound, rtol=0)


def test_an_adapter_of_one_product_leaves_the_others(tmp_path: Path) -> None:
    pairs = random_pairs(BASE, 3, ("wk",))
    source = model_of(tmp_path, BASE, "gguf")
    adapter = write_gguf(tmp_path / "adapter.gguf", BASE, pairs)
    convert(str(source), str(tmp_path / "m.gguf"), "f32", adapter=str(adapter))
    found, base = weights_of(tmp_path / "m.gguf"), tiny.random_weights(BASE)
    changed = {name for name, values in found.items() if not np.array_equal(values, base[name])}
    assert changed == set(pairs)


def test_what_cannot_be_merged_leaves_no_file(tmp_path: Path) -> None:
    source, target = model_of(tmp_path, BASE, "folder"), tmp_path / "m.gguf"
    other = replace(BASE, d_ff=128)
    for pairs, words in (
        (random_pairs(other, 3), "the adapter is for another base"),
        ({"layers.0.wq": (np.full((3, 96), np.nan, "f4"), np.zeros((96, 3), "f4"))}, "a NaN"),
    ):
        adapter = write_gguf(tmp_path / "adapter.gguf", BASE, pairs)
        with pytest.raises(ModelFileError, match=words):
            convert(str(source), str(target), "f32", adapter=str(adapter))
    assert not target.exists()


def test_a_weight_with_a_scale_of_its_own_is_refused(tmp_path: Path) -> None:
    """Its values are not the weight's."""
    weights = tiny.random_weights(BASE)
    path = tiny.write_gguf(tmp_path / "base.gguf", BASE, weights)
    scaled = tmp_path / "scaled.gguf"
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(scaled, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.0.attn_q.scale", np.array([2.0], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for targets, words in ((("wq",), "is multiplied by 'blk.0.attn_q.scale'"), (("wv",), None)):
        adapter = write_peft(tmp_path / f"{targets[0]}", random_pairs(BASE, 3, targets))
        arguments = str(scaled), str(tmp_path / "m.gguf"), "f32"
        if words is None:
            convert(*arguments, adapter=str(adapter))
            continue
        with pytest.raises(UnsupportedModelError, match=words):
            convert(*arguments, adapter=str(adapter))
