"""A model's own draft head where something is wrong: files, updates, steps that fail."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny
from babble import plain
from draft_heads import eager, random_tensors, rigged_tensors, write_folder
from pyroclast import LLM, ModelFileError, RequestError, SamplingParams
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import KernelError, UnsupportedModelError
from pyroclast.families.qwen3_5 import QWEN3_5
from pyroclast.families.read_gguf import _settle_layers
from pyroclast.model import load_plan
from pyroclast_kernels.selection import Selection

GREEDY = SamplingParams(temperature=0, seed=1, max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("faults") / "model", random_tensors())


def test_closing_ends_the_threads(folder: Path) -> None:
    llm = LLM(folder, threads=2, n_blocks=8, speculation="mtp")
    executor = weakref.ref(llm.model.executor)  # type: ignore[attr-defined]
    llm.close()
    gc.collect()
    assert executor() is None


def test_the_head_s_weights_can_be_changed(folder: Path, tmp_path: Path) -> None:
    changed = random_tensors(7)["mtp.fc.weight"]
    whole = write_folder(tmp_path / "changed", random_tensors() | {"mtp.fc.weight": changed})
    bare = {"norm.weight": random_tensors()["model.norm.weight"], "mtp.fc.weight": changed}
    with LLM(whole, threads=1, n_blocks=8, speculation="mtp") as llm:
        expected = _of_token(llm)
    for given in ({"mtp.fc.weight": changed}, bare):
        with LLM(folder, threads=1, n_blocks=8, speculation="mtp") as llm:
            assert not np.array_equal(_of_token(llm), expected)
            llm.update_weights(given)
            assert np.array_equal(_of_token(llm), expected)
            for wrong in ("mtp.nonsense", "mtp.norm.weight"):
                with pytest.raises(RequestError, match=wrong):
                    llm.update_weights({wrong: np.zeros(3, np.float32)})


def _of_token(llm: LLM) -> Any:
    weights: Any = llm.model._weights  # type: ignore[attr-defined]
    return np.array(weights.draft.of_token.weight.data)


def test_a_step_of_the_head_that_fails_keeps_no_block(tmp_path: Path) -> None:
    right = write_folder(tmp_path / "right", rigged_tensors(stumbles=False))
    options: dict[str, Any] = {"threads": 1, "n_blocks": 4, "prefix_cache": False}
    with LLM(right, speculation="off", **options) as llm:
        expected = llm.generate([list(range(3, 9))], GREEDY)
    with eager(LLM(right, speculation="mtp", **options)) as llm:
        drafts: Any = llm._loop.stepper._speculator.draft  # type: ignore[union-attr]
        begin, forward, lent = drafts._begin, drafts.model.forward, list[int]()
        failures: list[int] = []

        def begun(*arguments: Any) -> list[int]:
            lent[:] = begin(*arguments)
            return lent

        def failing(sample: bool = True) -> None:
            if lent:
                failures.extend(lent)
                raise KernelError("planted")
            forward(sample)

        drafts._begin, drafts.model.forward = begun, failing
        assert plain(llm.generate([list(range(3, 9))], GREEDY)) == plain(expected)
        assert failures
        pool = llm._prefixes.pool
        assert pool.n_free == pool.n_blocks


def test_names_may_lack_their_first_part(folder: Path, tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): values for name, values in random_tensors().items()}
    bare = write_folder(tmp_path / "bare", tensors)
    for has_head in (False, True):
        with (
            open_checkpoint(bare, draft_head=has_head) as found,
            open_checkpoint(folder, draft_head=has_head) as expected,
        ):
            assert found.tensors.keys() == expected.tensors.keys()


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors()
    twice = tensors | {"model.mtp.norm.weight": tensors["mtp.norm.weight"] + 1}
    path = write_folder(tmp_path / "twice", twice)
    with pytest.raises(ModelFileError, match=r"mtp\.norm.weight' is there twice"):
        open_checkpoint(path, draft_head=True)


def test_a_head_of_another_family_is_not_supported(tmp_path: Path) -> None:
    path = tmp_path / "llama"
    tiny.write_folder(path, tiny.BASE, tiny.random_weights(tiny.BASE))
    weights = load_file(path / "model.safetensors")
    save_file(weights | {"mtp.fc.weight": np.zeros((4, 4), np.float32)}, path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"heads of llama files .* not supported"):
        open_checkpoint(path, draft_head=True)


def test_the_number_of_heads_is_an_integer() -> None:
    values = {"n_layers": 5, "n_draft_layers": 0.0}
    with pytest.raises(ModelFileError, match="nextn_predict_layers"):
        _settle_layers(QWEN3_5, {"n_draft_layers": "qwen35.nextn_predict_layers"}, values)


def test_a_quantized_head_does_not_choose_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bit of a text may depend on whether a head is loaded."""
    monkeypatch.setattr(load_plan, "automatic_dtype", lambda _, quantized: str(quantized))
    with open_checkpoint(folder, draft_head=True) as found:
        head = f"layers.{found.config.n_layers}.wo"
        found.tensors[head] = replace(found.tensors[head], format="q8_0")
        assert load_plan.automatic_kv_dtype(found, Selection(None)) == "False"
        found.tensors["layers.0.wo"] = replace(found.tensors[head], name="layers.0.wo")
        assert load_plan.automatic_kv_dtype(found, Selection(None)) == "True"
