"""Adapters in files: both formats give the same products, and lies are refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_files
import tiny
from lora_files import random_pairs, write_gguf, write_peft
from pyroclast.checkpoint.adapter.open import fingerprint, open_adapter
from pyroclast.checkpoint.adapter.pairs import MAX_RANK
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.registry import config_of
from tiny import BASE

CONFIG = config_of(BASE)
PAIRS = random_pairs(BASE, 3)
SOME = random_pairs(BASE, 2, ("wq", "w_down"))
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def read(path: Path, config: Any = CONFIG) -> dict[str, np.ndarray]:
    """What is added to each weight, in float64."""
    adapter = open_adapter(path, config)
    products = adapter.read()
    adapter.close()
    return {name: b.astype(np.float64) @ a for name, (a, b) in products.items()}


def check(found: dict[str, np.ndarray], pairs: lora_files.Pairs, scale: float) -> None:
    assert found.keys() == pairs.keys()
    for name, (a, b) in pairs.items():
        # Every value is exact in the file; scaling B rounds it once.
        want = scale * b.astype(np.float64) @ a
        bound = scale * 2.0**-23 * np.abs(b).astype(np.float64) @ np.abs(a)
        assert (np.abs(found[name] - want) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_peft_folder(tmp_path: Path, dtype: str) -> None:
    pairs = PAIRS
    if dtype == "float16":
        pairs = {name: tuple(v.astype("f2").astype("f4") for v in p) for name, p in PAIRS.items()}
    check(read(write_peft(tmp_path, pairs, dtype=dtype)), pairs, 2.0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_a_gguf_file(tmp_path: Path, family: str) -> None:
    """Those of the architecture llama order the rows of q and k by rotary pairs."""
    config = replace(BASE, family=family)
    path = write_gguf(tmp_path / "a.gguf", config, PAIRS)
    check(read(path, config_of(config)), PAIRS, 2.0)


def test_a_quantized_gguf_file(tmp_path: Path) -> None:
    pairs = random_pairs(BASE, 32, ("wq", "wo"))
    found = read(write_gguf(tmp_path / "a.gguf", BASE, pairs, quant="Q8_0"))
    for name, (a, b) in pairs.items():
        want = 6 / 32 * b @ a
        assert 0 < np.abs(found[name] - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 1.5}, 0.5),
        ({"use_rslora": True}, 6 / np.sqrt(3)),
        ({"target_modules": sorted(n.split(".")[1] for n in lora_files.NAMES.values())}, 2.0),
        ({"init_lora_weights": "gaussian", "layers_to_transform": []}, 2.0),
        ({"loftq_config": {}, "alpha_pattern": None}, 2.0),
    ],
)
def test_the_scale(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    check(read(write_peft(tmp_path, PAIRS, config=config)), PAIRS, scale)


@pytest.mark.parametrize("alpha", [0, None])
def test_a_gguf_file_without_alpha_has_scale_1(tmp_path: Path, alpha: float | None) -> None:
    path = write_gguf(tmp_path / "a.gguf", BASE, PAIRS, keys={"adapter.lora.alpha": alpha})
    check(read(path), PAIRS, 1.0)


def test_patterns_set_rank_and_scale_of_modules(tmp_path: Path) -> None:
    """The first name that fits counts; ^ marks a whole one."""
    other = random_pairs(BASE, 2, ("w_up",))
    pairs = PAIRS | other
    config = {
        "rank_pattern": {"mlp.up_proj": 2, "up_proj": 9},
        "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 12, "^self_attn.v_proj": 9},
    }
    found = read(write_peft(tmp_path, pairs, config=config))
    for name, (a, b) in pairs.items():
        scale = {"layers.1.wv": 4.0}.get(name, 3.0 if name.endswith("w_up") else 2.0)
        check({name: found[name]}, {name: (a, b)}, scale)


@pytest.mark.parametrize(
    "config", [{"layers_to_transform": [1]}, {"layers_to_transform": 1}, {"exclude_modules": "x"}]
)
def test_layers_can_be_left_out(tmp_path: Path, config: dict[str, Any]) -> None:
    pairs = {name: pair for name, pair in SOME.items() if name.startswith("layers.1.")}
    check(read(write_peft(tmp_path, pairs, config=config)), pairs, 3.0)


def test_names_of_a_bare_model(tmp_path: Path) -> None:
    """peft around a model without its head leaves the first part away."""
    tensors = {
        name.replace("model.model.", "model."): values
        for name, values in lora_files.peft_tensors(SOME).items()
    }
    check(read(write_peft(tmp_path, SOME, tensors=tensors)), SOME, 3.0)


def fused(rank: int = 3) -> tuple[Any, tiny.Weights]:
    """Phi-3's config, and an adapter of its fused matrices."""
    config = config_of(replace(BASE, family="phi3"))
    rng = np.random.default_rng(3)
    tensors = {}
    for i in range(BASE.n_layers):
        for module, n_rows in (("self_attn.qkv_proj", 160), ("mlp.gate_up_proj", 320)):
            start = f"base_model.model.model.layers.{i}.{module}"
            tensors[f"{start}.lora_A.weight"] = rng.standard_normal((rank, 96)).astype("f4")
            tensors[f"{start}.lora_B.weight"] = rng.standard_normal((n_rows, rank)).astype("f4")
    return config, tensors


def test_a_fused_matrix_is_split_into_its_products(tmp_path: Path) -> None:
    config, tensors = fused()
    fields = {"target_modules": ["qkv_proj", "gate_up_proj"], "r": 3}
    path = write_peft(tmp_path, SOME, tensors=tensors, config=fields)
    adapter = open_adapter(path, config)
    products = adapter.read()
    assert adapter.targets == {"wq", "wk", "wv", "w_gate", "w_up"}
    for module, parts in (
        ("self_attn.qkv_proj", ("wq", "wk", "wv")),
        ("mlp.gate_up_proj", ("w_gate", "w_up")),
    ):
        start = f"base_model.model.model.layers.1.{module}"
        a, b = (tensors[f"{start}.lora_{each}.weight"] for each in "AB")
        np.testing.assert_array_equal(
            np.concatenate([products[f"layers.1.{part}"][1] for part in parts]), 2 * b
        )
        for part in parts:
            np.testing.assert_array_equal(products[f"layers.1.{part}"][0], a)


def test_fingerprints_tell_names_and_values_apart(tmp_path: Path) -> None:
    products = open_adapter(write_peft(tmp_path / "a", SOME), CONFIG).read()
    other = open_adapter(write_peft(tmp_path / "b", SOME, alpha=7), CONFIG).read()
    same = open_adapter(write_gguf(tmp_path / "c", BASE, SOME), CONFIG).read()
    assert fingerprint("x", products) == fingerprint("x", same)
    found = {fingerprint(*each) for each in (("x", products), ("y", products), ("x", other))}
    assert len(found) == 3 and {len(each) for each in found} == {16}


# ---- lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"peft_type": "IA3"}, UnsupportedModelError, "peft_type must be 'LORA', got 'IA3'"),
        ({"use_dora": True}, UnsupportedModelError, "use_dora' is True"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModelError, r"modules_to_save' is \[.lm_h"),
        ({"lora_bias": True}, UnsupportedModelError, "lora_bias' is True"),
        ({"bias": "all"}, UnsupportedModelError, "bias must be 'none', got 'all': trained biases"),
        ({"layer_replication": [[0, 4]]}, UnsupportedModelError, "layer_replication' is"),
        ({"trainable_token_indices": [1]}, UnsupportedModelError, "trainable_token_indices' is"),
        ({"alora_invocation_tokens": [1]}, UnsupportedModelError, "alora_invocation_tokens' is"),
        ({"some_new_field": "on"}, UnsupportedModelError, "some_new_field' is 'on'"),
        ({"init_lora_weights": "pissa"}, UnsupportedModelError, "init_lora_weights 'pissa'"),
        ({"target_modules": ["q_proj", "lm_head"]}, UnsupportedModelError, "names 'lm_head': only"),
        ({"target_modules": ["embed_tokens"]}, UnsupportedModelError, "names 'model.embed_tokens'"),
        ({"target_modules": r".*\.(q|v)_proj"}, UnsupportedModelError, "target_modules .* regular"),
        ({"target_modules": []}, ModelFileError, r"target_modules must be a list of names, got \["),
        ({"target_modules": [1]}, ModelFileError, "target_modules must be a list of names"),
        ({"target_modules": {"q_proj": 1}}, ModelFileError, "target_modules must be a list"),
        ({"target_modules": ["q_proj"]}, ModelFileError, "down_proj.* is for no module in target"),
        (
            {"target_modules": ["q_proj", "down_proj", "v_proj"]},
            ModelFileError,
            "target_modules names 'model.layers.0.self_attn.v_proj.weight' of the base",
        ),
        ({"layers_to_transform": "all"}, ModelFileError, "layers_to_transform must list layers"),
        ({"r": 0}, ModelFileError, r"r must be a whole number in 1\.\.1024, got 0"),
        ({"r": MAX_RANK + 1}, ModelFileError, r"r must be .*, got 1025"),
        ({"r": True}, ModelFileError, "r must be a whole number .*, got True"),
        ({"r": 2.0}, ModelFileError, r"r must be a whole number .*, got 2\.0"),
        ({"r": None}, ModelFileError, "r must be a whole number .*, got None"),
        ({"r": 3}, ModelFileError, r"lora_A.weight' has shape \(2, \d+\), but .* says rank 3"),
        ({"rank_pattern": {"q_proj": 4}}, ModelFileError, "q_proj.* says rank 4"),
        ({"rank_pattern": {"q_proj": -1}}, ModelFileError, r"rank_pattern\['q_proj'\] must be"),
        ({"rank_pattern": [1]}, ModelFileError, "rank_pattern must be an object"),
        ({"alpha_pattern": {"(a+)+$": 1}}, UnsupportedModelError, "alpha_pattern has the regular"),
        ({"lora_alpha": "8"}, ModelFileError, "lora_alpha must be a finite number, got '8'"),
        ({"lora_alpha": float("nan")}, ModelFileError, "lora_alpha must be a finite number"),
        ({"lora_alpha": 1e39}, ModelFileError, "lora_alpha must be a finite number"),
        ({"use_rslora": "yes"}, ModelFileError, "use_rslora must be true or false, got 'yes'"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_plain_lora(
    tmp_path: Path, config: dict[str, Any], kind: type[Exception], words: str
) -> None:
    path = write_peft(tmp_path / "adapter", SOME, config=config)
    with pytest.raises(kind, match=words) as caught:
        open_adapter(path, CONFIG)
    assert str(path) in str(caught.value)


def test_names_without_end_take_no_time(tmp_path: Path) -> None:
    """Neither many targets and patterns nor a name of very many parts."""
    many = {f"module_{i}": 1 for i in range(20_000)} | {"q_proj": 2, "self_attn.q_proj": 2}
    config = {"target_modules": ["q_proj", "down_proj", *many], "rank_pattern": many}
    started_s = time.process_time()
    check(read(write_peft(tmp_path, SOME, config=config)), SOME, 3.0)
    deep = f"base_model.model.{'a.' * 200_000}q_proj.lora_A.weight"
    tensors = {deep: ZEROS, deep.replace("_A", "_B"): np.zeros((96, 2), np.float32)}
    with pytest.raises(UnsupportedModelError, match="the adapter changes"):
        open_adapter(write_peft(tmp_path, SOME, tensors=tensors), CONFIG)
    assert time.process_time() - started_s < 5


def changed(name: str, values: np.ndarray | None) -> Callable[[tiny.Weights], tiny.Weights]:
    """The tensors with another one in that place, or without it."""
    return lambda tensors: {
        each: old if each != name else values
        for each, old in (tensors | {name: values}).items()
        if each != name or values is not None
    }


def named(old: str, new: str) -> Callable[[tiny.Weights], tiny.Weights]:
    return lambda tensors: {name.replace(old, new): each for name, each in tensors.items()}


ZEROS = np.zeros((2, 96), np.float32)
NAN = np.full((2, 96), np.nan, np.float32)
EXTRA = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            changed(FIRST, ZEROS[:, :64]),
            r"another base: .* shape \(2, 64\) and .*\(96, 2\); the base's .* is \(96, 96\)",
        ),
        (changed(FIRST.replace("_A", "_B"), np.zeros((80, 2), np.float32)), r"another base.*\(80,"),
        (changed(FIRST.replace("_A", "_B"), np.zeros((96, 3), np.float32)), r"another base.*96, 3"),
        (changed(FIRST, np.zeros(96, np.float32)), r"has shape \(96,\), but .* says rank 2"),
        (changed(FIRST, ZEROS[:0]), r"has shape \(0, 96\)"),
        (changed(FIRST, None), "lora_A.weight' is missing"),
        (changed(FIRST, NAN), "q_proj.lora_A.weight' holds a NaN or an infinity"),
        (changed(FIRST.replace("_A", "_B"), np.full((96, 2), 3e38, "f4")), "exceeds float32"),
        (changed(f"{EXTRA}.lora_magnitude_vector", ZEROS), "'.*magnitude_vector' is no matrix of"),
        (changed(f"{EXTRA}.lora_B.bias", ZEROS), "'.*lora_B.bias' is no matrix of plain LoRA"),
        (changed("base_model.model.lm_head.weight", ZEROS), "'.*lm_head.weight' is no matrix of"),
        (named("base_model.model.", ""), "is no matrix of plain LoRA"),
        (named("layers.1.", "layers.7."), "model.layers.7.self_attn.q_proj.*2 layers"),
        (named("layers.1.self_attn.q_proj", "layers.1.mixer.q_proj"), "layers.1.mixer.q_proj"),
        (lambda _: {}, "the adapter changes no weight"),
    ],
)  # fmt: skip
def test_tensors_that_lie(
    tmp_path: Path, change: Callable[[tiny.Weights], tiny.Weights], words: str
) -> None:
    tensors = change(lora_files.peft_tensors(SOME))
    with pytest.raises(ModelFileError, match=words) as caught:
        open_adapter(write_peft(tmp_path, SOME, tensors=tensors), CONFIG).read()
    assert str(tmp_path) in str(caught.value)


def test_an_adapter_of_another_family_or_size(tmp_path: Path) -> None:
    for other in (replace(BASE, d_ff=128), replace(BASE, n_kv_heads=3)):
        with pytest.raises(ModelFileError, match="the adapter is for another base"):
            open_adapter(write_peft(tmp_path, PAIRS), config_of(other))
    with pytest.raises(UnsupportedModelError, match=r"can be changed: .*qkv_proj"):
        open_adapter(write_peft(tmp_path, SOME), config_of(replace(BASE, family="phi3")))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"general.type": "model"}, "no LoRA adapter: general.type must be 'adapter', got 'model'"),
        ({"general.type": None}, "general.type must be 'adapter', got None"),
        ({"adapter.type": "control"}, "adapter.type must be 'lora', got 'control'"),
        ({"general.architecture": "qwen2"}, "another base: general.architecture is 'qwen2', and"),
        ({"adapter.lora.alpha": "8"}, "adapter.lora.alpha must be a finite number, got '8'"),
        ({"adapter.lora.alpha": float("inf")}, "adapter.lora.alpha must be a finite .* inf"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "adapter.alora.invocation_tokens: adapters"),
    ],
)
def test_keys_of_a_gguf_file_that_do_not_fit(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    path = write_gguf(tmp_path / "a.gguf", BASE, SOME, keys=keys)
    with pytest.raises(ModelFileError, match=words) as caught:
        open_adapter(path, CONFIG)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"blk.0.attn_q.weight.lora_a", b"blk.0.attn_q.weight.lora_x", "_x' is no matrix of plain"),
        (b"blk.0.attn_q.weight.lora_a", b"blk.9.attn_q.weight.lora_a", "q.weight.lora_b' is miss"),
        (b"blk.0.attn_q.weight", b"blk.7.attn_q.weight", "changes 'blk.7.attn_q.weight', which is"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_z.weight", "'blk.0.attn_z.weight'.*: attn_k, attn_"),
    ],
)
def test_tensors_of_a_gguf_file_that_lie(
    tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    path = write_gguf(tmp_path / "a.gguf", BASE, SOME)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ModelFileError, match=words):
        open_adapter(path, CONFIG)


def test_a_rank_that_no_slot_has(tmp_path: Path) -> None:
    pairs = random_pairs(BASE, MAX_RANK + 1, ("wq",))
    with pytest.raises(ModelFileError, match="has rank 1025; allowed: 1 to 1024"):
        open_adapter(write_gguf(tmp_path / "a.gguf", BASE, pairs), CONFIG)
    open_adapter(write_gguf(tmp_path / "b.gguf", BASE, random_pairs(BASE, MAX_RANK)), CONFIG)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    for path in (write_peft(tmp_path / "a", SOME), write_gguf(tmp_path / "a.gguf", BASE, SOME)):
        file = path / "adapter_model.safetensors" if path.is_dir() else path
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(ModelFileError, match="the file ends at"):
            open_adapter(path, CONFIG)


def test_folders_that_are_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no adapter_model\.safetensors$"):
        open_adapter(tmp_path, CONFIG)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"adapter_model\.bin is a pickle, which can run code"):
        open_adapter(tmp_path, CONFIG)
    folder = write_peft(tmp_path / "a", SOME)
    for text, words in (
        ("[]", "must be a JSON object"),
        ("{", "not valid JSON"),
        ('{"r": ' + "9" * 5000 + "}", "not valid JSON"),
        (json.dumps({"peft_type": ["LORA"] * 1000}), "peft_type must be 'LORA'"),
    ):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ModelFileError, match=words):
            open_adapter(folder, CONFIG)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelFileError, match=r"no adapter_config\.json"):
        open_adapter(folder, CONFIG)
    with pytest.raises(ModelFileError, match="cannot be read"):
        open_adapter(tmp_path / "nothing", CONFIG)
