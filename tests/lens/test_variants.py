"""A second engine of one model's files: its numbers are those of an LLM that was loaded so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_files import random_pairs, write_peft
from pyroclast import LLM, KernelError, MemoryBudgetError, RequestError, SamplingParams, lens
from pyroclast.lens import variants
from pyroclast.model import kv_cache
from tiny import CONFIGS, random_weights, write_folder

IDS = [256, 7, 99, 3, 7]
CHANGES: list[dict[str, Any]] = [
    {"weights": "q4_0"},
    {"kv_dtype": "q8_0"},
    {"compute": "float32"},
    {"kernels": "softmax=numpy,norm=numpy"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("variants") / "model"
    return write_folder(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_it_differs_in_what_was_asked_for_alone(folder: Path, change: dict[str, Any]) -> None:
    loading = {"threads": 1, "kernels": "norm=numba", "max_batch_tokens": 64}
    direct = dict(loading)
    if "kernels" in change:
        direct["kernels"] = change["kernels"]
    direct |= {name: value for name, value in change.items() if name in ("kv_dtype", "compute")}
    path = f"{folder}@{change.get('weights', 'q8_0')}"
    with LLM(f"{folder}@q8_0", **loading) as llm, LLM(path, **direct) as wanted:
        other = lens.variant(llm, lens.Variant(**change))
        with other:
            assert (other.max_seq_len, other.n_threads) == (llm.max_seq_len, 1)
            assert other.kernels == wanted.kernels
            got = other.logits(IDS)
            np.testing.assert_array_equal(got, wanted.logits(IDS))
            if "kernels" not in change:
                assert (got != llm.logits(IDS)).any()


def test_rules_of_the_environment_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYROCLAST_KERNELS", "attention=numpy")
    change = lens.Variant(kernels="norm=numpy")
    with LLM(folder, threads=1) as llm, lens.variant(llm, change) as other:
        changed = {op for op, name in other.kernels.items() if name != llm.kernels[op]}
    assert {op.partition(".")[0] for op in changed} == {"norm"}


def test_an_adapter_comes_along(folder: Path, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "x", random_pairs(CONFIGS["llama"], 4))
    with LLM(folder, threads=1, adapters={"x": adapter}) as llm:
        with lens.variant(llm, lens.Variant(kv_dtype="f32")) as other:
            assert other.adapters == ("x",)
            assert (other.logits(IDS, adapter="x") != other.logits(IDS)).any()
        llm.update_weights({"model.norm.weight": np.ones(llm.model.config.d_model)})  # type: ignore[attr-defined]
        with pytest.raises(RequestError, match="updated since it was loaded"):
            lens.variant(llm, lens.Variant(kv_dtype="f32"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "must differ in one of weights, kv_dtype, compute, kernels"),
        ({"weights": "q9"}, r"weights must be one of .*q4_0.*, got 'q9'"),
        ({"kv_dtype": "q4_0"}, "kv_dtype must be one of auto, f32"),
        ({"compute": ""}, "compute must be one of auto, float32, got ''"),
    ],
)
def test_what_no_variant_can_be_is_refused(tiny_llm: LLM, change: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        lens.variant(tiny_llm, lens.Variant(**change))


def test_kernels_that_are_not_there_are_refused(tiny_llm: LLM) -> None:
    with pytest.raises(KernelError, match="no variant"):
        lens.variant(tiny_llm, lens.Variant(kernels="matmul=fortran"))


def test_the_cache_that_the_first_may_still_fill_is_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has filled already is no longer free, and not counted again."""
    asked: list[int] = []

    def little(promised: int) -> int:
        asked.append(promised)
        return 1 << 16

    monkeypatch.setattr(variants, "available_bytes", little)

    def filled_bytes(array: NDArray[Any]) -> int:  # malloc may give what is resident already
        return array.itemsize * int(np.count_nonzero(array))

    monkeypatch.setattr(kv_cache, "resident_bytes", filled_bytes)
    monkeypatch.setattr(variants, "LLM", None)  # nothing is loaded
    with LLM(folder, threads=1, n_blocks=80) as llm:
        cache = llm.model.cache  # type: ignore[attr-defined]
        llm.generate([1], SamplingParams(max_tokens=1))
        for _ in range(2):
            with pytest.raises(MemoryBudgetError, match=r"a second engine of .* needs .* MiB"):
                lens.variant(llm, lens.Variant(weights="q8_0"))
            for array in (*cache.k, *cache.v):
                array[: len(array) // 2] = 1
        for array in (*cache.k, *cache.v):
            array[...] = 1
        assert cache.unfilled_bytes == 0
    before, after = asked
    assert 0 < after < before


def test_a_model_made_of_parts_has_no_files(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_llm, "_source", None)  # as `assemble` leaves it
    with pytest.raises(RequestError, match="was made of parts"):
        lens.variant(tiny_llm, lens.Variant(weights="q8_0"))
