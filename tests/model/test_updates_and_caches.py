"""`LLM.update_weights` beside what is kept on disk: no page or state of other weights is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lora_files
import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.errors import CacheFileError
from pyroclast.model import model as model_module

PROMPT = np.random.default_rng(3).integers(0, 256, 70).tolist()
PARAMS = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        tiny.write_folder(tmp_path / f"{seed}", tiny.BASE, tiny.random_weights(tiny.BASE, seed))
        for seed in (1, 2)
    ]


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one", tmp_path / "two"]
    for seed, path in enumerate(paths, 1):
        lora_files.write_peft(path, lora_files.random_pairs(tiny.BASE, seed=seed), alpha=6)
    return paths


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    names = ("model.safetensors", "adapter_model.safetensors")
    return load_file(next(path / name for name in names if (path / name).exists()))


def once(function: Callable[..., Any], before: Callable[[], Any]) -> Callable[..., Any]:
    """The function; its first call does `before` first."""
    todo = [before]

    def called(*arguments: Any, **options: Any) -> Any:
        if todo:
            todo.pop()()
        return function(*arguments, **options)

    return called


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_in_an_update_leaves_no_page_of_the_old_weights(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    with LLM(old, cache_dir=tmp_path / "pages") as llm:
        llm.generate([PROMPT], PARAMS)
        memory = llm.model.memory
        monkeypatch.setattr(memory, "refill", once(memory.refill, interrupt))
        with pytest.raises(KeyboardInterrupt):
            llm.update_weights(tensors_of(new))
        [answer] = llm.generate([PROMPT], PARAMS)
        assert answer.timings.n_cached_tokens == 0
    with LLM(new, cache_dir=tmp_path / "pages") as llm:
        [again] = llm.generate([PROMPT], PARAMS)
        assert again.timings.n_cached_tokens > 0
        assert again.token_ids == answer.token_ids


def test_ctrl_c_while_the_new_weights_are_hashed_leaves_the_disk_out(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    with LLM(old, cache_dir=tmp_path / "pages") as llm:
        llm.generate([PROMPT], PARAMS)
        digest = model_module.model_digest
        monkeypatch.setattr(model_module, "model_digest", once(digest, interrupt))
        with pytest.raises(KeyboardInterrupt):
            llm.update_weights(tensors_of(new))
        [answer] = llm.generate([PROMPT], PARAMS)
        assert answer.timings.n_cached_tokens == 0
    with LLM(old, cache_dir=tmp_path / "pages") as llm, LLM(old) as expected:
        assert llm.generate([PROMPT], PARAMS)[0].timings.n_cached_tokens > 0
        assert (llm.logits(PROMPT) == expected.logits(PROMPT)).all()


def test_ctrl_c_in_an_update_of_an_adapter_gives_it_another_name(
    pair: list[Path], adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = adapters
    with LLM(pair[0], adapters={"a": one}) as llm:
        slots = llm.model.adapters
        monkeypatch.setattr(slots, "set", once(slots.set, interrupt))
        with pytest.raises(KeyboardInterrupt):
            llm.update_weights(tensors_of(two), adapter="a")
        llm.save_state(tmp_path / "state", PROMPT, adapter="a")
    with (
        LLM(pair[0], adapters={"a": one}) as llm,
        pytest.raises(CacheFileError, match="another adapter"),
    ):
        llm.load_state(tmp_path / "state", adapter="a")


def test_a_state_whose_weights_change_meanwhile_is_not_written(
    pair: list[Path], adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    with LLM(pair[0], adapters={"a": adapters[0]}) as llm:
        read = llm._states._read
        for tensors, name in ((tensors_of(pair[1]), None), (tensors_of(adapters[1]), "a")):

            def update(tensors: Any = tensors, name: str | None = name) -> None:
                llm.update_weights(tensors, adapter=name)

            monkeypatch.setattr(llm._states, "_read", once(read, update))
            with pytest.raises(CacheFileError, match=r"state: not written: the weights changed"):
                llm.save_state(path, PROMPT, adapter=name)
            assert not path.exists()
        llm.save_state(path, PROMPT, adapter="a")
        assert llm.load_state(path, adapter="a") == 64


def test_weights_that_change_while_they_are_hashed_are_hashed_again(
    pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    with LLM(old) as llm, LLM(new) as expected:
        digest = model_module.model_digest

        def changed_behind(*arguments: Any) -> bytes:
            found = digest(*arguments)
            monkeypatch.setattr(model_module, "model_digest", digest)
            llm.update_weights(tensors_of(new))
            return found

        monkeypatch.setattr(model_module, "model_digest", changed_behind)
        assert llm.model.cache_identity != expected.model.cache_identity
        assert llm.model.cache_identity == expected.model.cache_identity


def test_the_disk_stays_out_once_an_adapter_has_changed(
    pair: list[Path], adapters: list[Path], tmp_path: Path
) -> None:
    """A stream that began before names its pages by the old adapter, with any weights below it."""
    one, two = adapters
    pages, params = tmp_path / "pages", SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    with LLM(pair[0], adapters={"a": one}, cache_dir=pages) as llm:
        stream = llm.stream(PROMPT, params, adapter="a")
        next(stream)
        llm.update_weights(tensors_of(two), adapter="a")
        llm.update_weights(tensors_of(pair[1]))
        list(stream)
    with LLM(pair[1], adapters={"a": one}, cache_dir=pages) as llm:
        [answer] = llm.generate([PROMPT], params, adapter="a")
        assert answer.timings.n_cached_tokens == 0
