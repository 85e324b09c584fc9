"""Weights that lie in a file with others in one tensor, or transposed: the same rows, the same
logits, and errors that name the tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_up
import tiny
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.checkpoint.tensor import FileRows
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.registry import FAMILIES
from pyroclast.families.rope import RopeSpec
from stepping import load, logits_of

CONFIG = replace(
    tiny.BASE,
    family="made-up",
    n_layers=len(made_up.LAYERS),
    extra={"local_rope_theta": made_up.LOCAL_THETA},
)
TOKENS = list(range(40))

Write = Callable[[Path, tiny.Weights, str], Path]


def write_gguf(path: Path, weights: tiny.Weights, kind: str) -> Path:
    return tiny.write_gguf(path.with_suffix(".gguf"), CONFIG, weights, kind.upper())


def write_folder(path: Path, weights: tiny.Weights, kind: str) -> Path:
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[kind]
    return tiny.write_folder(path, CONFIG, weights, dtype)


def both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, write: Write, kind: str
) -> tuple[Checkpoint, Checkpoint]:
    """A file with a tensor for each weight, and one as the family says; the family stays."""
    found = []
    for name, each in (("plain", made_up.FAMILY), ("fused", family)):
        monkeypatch.setitem(FAMILIES, "made-up", each)
        path = write(tmp_path / name, tiny.random_weights(CONFIG), kind)
        found.append(open_checkpoint(path))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("write", "kind"),
    [(write_gguf, kind) for kind in ("f32", "f16", "bf16", "q8_0", "q4_0")]
    + [(write_folder, kind) for kind in ("f32", "f16", "bf16")],
)
def test_the_parts_have_the_bytes_and_logits_of_tensors_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, kind: str
) -> None:
    family = made_up.fused_family(made_up.BASE)
    plain, fused = both(tmp_path, monkeypatch, family, write, kind)
    assert plain.tensors.keys() == fused.tensors.keys()
    assert len({t.source_name for t in fused.tensors.values()}) == len(plain.tensors) - 3 * 4 - 2
    for name, tensor in plain.tensors.items():
        other = fused.tensors[name]
        assert (tensor.shape, tensor.format) == (other.shape, other.format)
        np.testing.assert_array_equal(tensor.rows(), other.rows(), err_msg=name)
    monkeypatch.setitem(FAMILIES, "made-up", made_up.FAMILY)
    want = logits_of(load(plain.path), TOKENS)
    monkeypatch.setitem(FAMILIES, "made-up", family)
    np.testing.assert_array_equal(logits_of(load(fused.path), TOKENS), want)


def test_parts_of_a_gguf_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = made_up.fused_family(made_up.BASE)
    _, fused = both(tmp_path, monkeypatch, family, write_gguf, "q8_0")
    for weight in ("wq", "wk", "wv", "w_gate", "w_up"):
        tensor = fused.tensors[f"layers.1.{weight}"]
        assert isinstance(tensor.source, FileRows)
        assert tensor.source.n_rows == tensor.n_rows


def test_a_transposed_matrix_is_quantized_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = made_up.fused_family(made_up.BASE)
    plain, fused = both(tmp_path, monkeypatch, family, write_folder, "f32")
    with open_checkpoint(f"{fused.path}@q8_0") as quantized:
        found = quantized.tensors["layers.2.wv"]
        assert found.format == "q8_0"
        monkeypatch.setitem(FAMILIES, "made-up", made_up.FAMILY)
        with open_checkpoint(f"{plain.path}@q8_0") as expected:
            want = expected.tensors["layers.2.wv"].rows()
        np.testing.assert_array_equal(found.rows(), want)


@pytest.mark.parametrize("rotary_dim", [None, 12])
def test_parts_may_have_rows_in_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotary_dim: int | None
) -> None:
    """Pairs of the dimensions that rotate; the others stay where they are."""
    paired = frozenset({"wq", "wk", "bq", "bk"})

    def config(h: Any) -> Any:
        made = made_up.config(h)
        rope = RopeSpec(1e4, rotary_dim=rotary_dim)
        layers = [replace(s, mixer=replace(s.attention, rope=rope)) for s in made.layers]
        return replace(made, layers=tuple(layers))

    family = replace(made_up.fused_family(made_up.BASE), config=config, gguf_paired=paired)
    monkeypatch.setitem(FAMILIES, "made-up", family)
    weights = tiny.random_weights(CONFIG)
    stored = {}
    for name, values in weights.items():
        weight = name.rpartition(".")[2]
        stored[name] = values
        if weight in paired:
            heads = values.reshape(
                -1, made_up.LAYERS[int(name.split(".")[1])].head_dim, *values.shape[1:]
            )
            n = rotary_dim or heads.shape[1]
            parts = [tiny.pair_rows(head[:n], 1) for head in heads]
            mixed = np.concatenate([np.stack(parts), heads[:, n:]], axis=1)
            stored[name] = mixed.reshape(values.shape)
    with open_checkpoint(write_gguf(tmp_path / "paired", stored, "f32")) as checkpoint:
        for name, values in weights.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].float32(), values, err_msg=name)


def change_and_open(tmp_path: Path, change: Callable[[tiny.Weights], None]) -> None:
    weights = tiny.random_weights(CONFIG)
    change(weights)
    open_checkpoint(write_gguf(tmp_path / "changed", weights, "f32"))


def test_a_fused_tensor_of_another_shape_or_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "made-up", made_up.fused_family(made_up.BASE))

    def without(weights: tiny.Weights) -> None:
        for weight in ("wq", "wk", "wv"):
            del weights[f"layers.1.{weight}"]

    def shorter(weights: tiny.Weights) -> None:
        weights["layers.1.wk"] = weights["layers.1.wk"][:-2]

    with pytest.raises(ModelFileError, match=r"tensor 'blk.1.qkv' is missing"):
        change_and_open(tmp_path, without)
    with pytest.raises(
        ModelFileError, match=r"'blk.1.qkv' has shape \(158, 96\); the config calls for \(160, 96\)"
    ):
        change_and_open(tmp_path, shorter)


def test_a_vector_of_several_in_blocks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts may begin inside a block."""
    monkeypatch.setitem(FAMILIES, "made-up", made_up.fused_family(made_up.BASE))
    raw = {"layers.1.bq": ("Q8_0", np.zeros(160 // 32 * 34, np.uint8))}
    path = tiny.write_gguf(tmp_path / "q8.gguf", CONFIG, tiny.random_weights(CONFIG), raw=raw)
    with pytest.raises(UnsupportedModelError, match=r"'blk.1.qkv_bias' is a vector in Q8_0; use"):
        open_checkpoint(path)


def test_a_fused_tensor_beside_its_parts_is_surplus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that stands in a file twice is not chosen silently."""
    monkeypatch.setitem(FAMILIES, "made-up", made_up.FAMILY)
    family = replace(
        made_up.FAMILY,
        gguf_tensors={**made_up.FAMILY.gguf_tensors, "layers.{i}.again": "blk.{i}.qkv"},
    )
    monkeypatch.setitem(FAMILIES, "made-up", family)
    weights = tiny.random_weights(CONFIG)
    path = write_gguf(
        tmp_path / "twice", weights | {"layers.0.again": weights["layers.0.wq"]}, "f32"
    )
    monkeypatch.setitem(
        FAMILIES,
        "made-up",
        replace(made_up.fused_family(made_up.BASE), gguf_tensors=made_up.FAMILY.gguf_tensors),
    )
    with pytest.raises(UnsupportedModelError, match=r"1 tensors have no place .* 'blk.0.qkv'"):
        open_checkpoint(path)
