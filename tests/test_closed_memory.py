"""Closing an LLM, or dropping the last reference to it, frees its memory at once: weights, cache,
workspace, logits.  Nothing waits until the garbage collector looks for circles."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from big_arrays import watched
from draft_heads import random_tensors
from draft_heads import write_folder as write_head
from lora_files import random_pairs, write_peft
from pyroclast import LLM, AsyncLLM, ClosedError, PyroclastError, SamplingParams, lens
from pyroclast.errors import CacheFileError, KernelError
from tiny import BASE, random_weights, write_folder, write_gguf

PROMPT = np.random.default_rng(3).integers(0, 256, 75).tolist()
PARAMS = SamplingParams(seed=3, max_tokens=40, ignore_eos=True, logprobs=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("closed")
    write_gguf(path / "q8_0.gguf", BASE, random_weights(BASE), "Q8_0")
    write_folder(path / "folder", BASE, random_weights(BASE))
    write_peft(path / "adapter", random_pairs(BASE, 4))
    write_head(path / "head", random_tensors())
    return path


def small(path: Path, **options: Any) -> LLM:
    return LLM(path, **{"n_blocks": 128, "max_seqs": 32, "threads": 2} | options)


KINDS: dict[str, Callable[[Path, Path], LLM]] = {
    "q8_0": lambda files, _: small(files / "q8_0.gguf"),
    "float32": lambda files, _: small(files / "folder", compute="float32", threads=1),
    "reference": lambda files, _: small(files / "q8_0.gguf", kernels="*=numpy"),
    "no prefix cache": lambda files, _: small(files / "q8_0.gguf", prefix_cache=False),
    "embeddings": lambda files, _: small(files / "q8_0.gguf", embeddings=True),
    "suffix": lambda files, _: small(files / "q8_0.gguf", speculation="suffix"),
    "draft": lambda files, _: small(
        files / "q8_0.gguf", draft=files / "folder", speculation="draft"
    ),
    "suffix or draft": lambda files, _: small(files / "q8_0.gguf", draft=files / "folder"),
    "adapter": lambda files, _: small(files / "q8_0.gguf", adapters={"x": files / "adapter"}),
    "recurrent": lambda files, _: small(files / "head"),
    "head": lambda files, _: small(files / "head", speculation="mtp"),
    "disk": lambda files, path: small(files / "q8_0.gguf", cache_dir=path / "cache"),
    "recurrent disk": lambda files, path: small(files / "head", cache_dir=path / "cache"),
}


@pytest.mark.parametrize("ends", ["close", "drop"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_memory_is_freed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ends: str
) -> None:
    with watched(monkeypatch) as arrays:
        llm = KINDS[kind](files, tmp_path)
        llm.generate([PROMPT, PROMPT[:50]], PARAMS)
        assert len(arrays.alive()) > 10
        if ends == "close":
            llm.close()
            assert arrays.alive() == []
        else:
            del llm
            # The thread that writes pages reads the cache until it has written what waits.
            assert arrays.freed() if "disk" in kind else not arrays.alive()


def plain(llm: LLM) -> object:
    return llm.generate(PROMPT, PARAMS)


def grammar(llm: LLM) -> object:
    return llm.generate("abc", SamplingParams(max_tokens=9, structured={"regex": "[a-z]{30}"}))


def processor(llm: LLM) -> object:
    def process(ids: list[int], logits: Any) -> Any:
        return logits * 2

    return llm.generate(PROMPT, SamplingParams(max_tokens=4, logits_processors=[process]))


def error_of(llm: LLM, **params: Any) -> Exception:
    """The error that a call ends with: its traceback has every frame of the step."""
    try:
        llm.generate(PROMPT, SamplingParams(max_tokens=4, **params))
    except (ValueError, PyroclastError) as error:
        return error
    raise AssertionError("it did not fail")


def failing(llm: LLM) -> object:
    def process(ids: list[int], logits: Any) -> Any:
        raise ValueError("on purpose")

    return error_of(llm, logits_processors=[process])


def refused(llm: LLM) -> object:
    return error_of(llm, logits_processors=[lambda ids, logits: logits * np.nan])


def stuck(llm: LLM) -> object:
    """A grammar that no token follows, told before the step runs."""
    return error_of(llm, structured={"regex": "[a-z]+"}, allowed_token_ids=[0])


def half_read(llm: LLM) -> object:
    stream = llm.stream(PROMPT, PARAMS)
    next(stream)
    return stream


def scored(llm: LLM) -> object:
    return llm.score([PROMPT])[0], llm.logits(PROMPT[:3])


def inspected(llm: LLM) -> object:
    return lens.attention(llm, PROMPT, mean=True), lens.next_token(llm, PROMPT)


def timed(llm: LLM) -> object:
    return lens.hood(llm, PROMPT)


def saved(llm: LLM) -> object:
    with TemporaryDirectory() as folder:
        llm.save_state(Path(folder) / "state", PROMPT)
        return llm.load_state(Path(folder) / "state")


def updated(llm: LLM) -> object:
    """In place: the values that were given are nobody's afterwards."""
    for _ in range(2):
        llm.update_weights({"blk.0.attn_q.weight": np.ones((96, 96), np.float32)})
    return llm.generate(PROMPT, PARAMS)


def not_finite(llm: LLM) -> object:
    """The model fails in the middle of its steps."""
    llm.model._weights.output_norm.weight[...] = np.nan  # type: ignore[attr-defined]
    return error_of(llm)


def out_of_order(llm: LLM) -> object:
    """An error that nobody has foreseen, out of the middle of a step."""

    def fail(*_: Any) -> None:
        raise ValueError("on purpose")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(llm.model._sampling_program, "run", fail)  # type: ignore[attr-defined]
        return error_of(llm)


def unread(llm: LLM) -> object:
    """A step's error ends two streams, and one of them is closed without having told it."""

    def fail(*_: Any) -> None:
        raise KernelError("on purpose")

    read, other = (llm.stream(PROMPT, PARAMS) for _ in range(2))
    next(read), next(other)
    read._chunks.clear(), other._chunks.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(llm.model), "forward", fail)  # of an instance it would leave a circle
        with pytest.raises(KernelError, match="on purpose"):
            for _ in read:
                pass
    other.close()
    return None


USES = [plain, grammar, processor, half_read, scored, inspected, timed, saved, updated]
FAILURES = [failing, refused, stuck, not_finite, out_of_order, unread]


@pytest.mark.parametrize("ends", ["close", "drop"])
@pytest.mark.parametrize("use", [*USES, *FAILURES])
def test_whatever_it_was_used_for(
    files: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[LLM], object], ends: str
) -> None:
    """What use has left is kept when the model is closed, and holds nothing of it."""
    with watched(monkeypatch) as arrays:
        llm = small(files / "q8_0.gguf")
        left = use(llm)
        if ends == "close":
            llm.close()
        else:
            del left, llm
        assert arrays.alive() == []


@pytest.mark.parametrize("ends", ["close", "drop"])
def test_after_coroutines(files: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    async def use() -> AsyncLLM:
        llm = AsyncLLM(files / "q8_0.gguf", n_blocks=128, max_seqs=32)
        await llm.generate(PROMPT, PARAMS)
        async for _ in llm.stream(PROMPT, PARAMS):
            break
        if ends == "close":
            await llm.close()
        return llm

    with watched(monkeypatch) as arrays:
        llm = asyncio.run(use())
        if ends == "drop":
            del llm
        assert arrays.freed()  # when the thread of the steps has seen it


def test_an_update_frees_what_it_was_given(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as arrays:
        llm = small(files / "folder@q8_0")
        llm.generate(PROMPT, PARAMS)
        before = sorted(arrays.alive())
        name = "model.layers.0.self_attn.q_proj.weight"
        for _ in range(2):
            llm.update_weights({name: np.ones((96, 96), np.float32)})
            llm.generate(PROMPT, PARAMS)
        assert sorted(arrays.alive()) == before
        llm.close()
        assert arrays.alive() == []


@pytest.mark.parametrize("kind", ["q8_0", "draft"])
def test_one_that_cannot_begin_leaves_nothing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The model has been loaded when the folder turns out to be too small for its pages."""
    more = {"draft": files / "folder"} if kind == "draft" else {}
    with watched(monkeypatch) as arrays:
        with pytest.raises(CacheFileError, match="cache_dir_bytes") as info:
            small(files / "q8_0.gguf", cache_dir=tmp_path, cache_dir_bytes=9, **more)
        assert arrays.alive() == [], info


@pytest.mark.parametrize("options", [{}, {"cache_dir": "cache"}], ids=str)
@pytest.mark.parametrize("part", ["Stepper", "Loop", "warm_up"])
def test_one_that_fails_late_leaves_nothing(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    options: dict[str, str],
) -> None:
    """The cache is there, and its folder is open."""

    def fail(*_: Any) -> None:
        raise KernelError("on purpose")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"pyroclast.llm.{part}", fail)
    with watched(monkeypatch) as arrays:
        with pytest.raises(KernelError, match="on purpose") as info:
            small(files / "q8_0.gguf", **options)
        assert arrays.alive() == [], info


def test_one_that_fails_late_keeps_what_a_subclass_has_set(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KernelError("on purpose")

    class Named(LLM):
        def __init__(self) -> None:
            self.called = "mine"
            with pytest.raises(KernelError, match="on purpose"):
                super().__init__(files / "q8_0.gguf")
            assert vars(self).keys() & {"called", "model"} == {"called"}

    monkeypatch.setattr("pyroclast.llm.warm_up", fail)
    Named()


def test_the_logits_of_a_prompt_are_the_callers_alone(files: Path) -> None:
    with small(files / "q8_0.gguf") as llm:
        found = weakref.ref(llm.logits(PROMPT))
        assert found() is None


def test_a_closed_one_says_so(files: Path) -> None:
    llm = small(files / "q8_0.gguf")
    llm.close()
    llm.close()
    for use in (plain, half_read, scored, inspected, timed, saved, updated):
        with pytest.raises(ClosedError, match="closed"):
            use(llm)


@pytest.mark.parametrize("kind", ["q8_0", "recurrent"])
def test_a_closed_model_says_so(files: Path, tmp_path: Path, kind: str) -> None:
    llm = KINDS[kind](files, tmp_path)
    model: Any = llm.model
    llm.close()
    asked: list[Callable[[], object]] = [
        lambda: model.slot_arrays(0),
        lambda: model.block_arrays(0),
        lambda: model.logits,
        lambda: model.hidden,
        lambda: model.adapters,
        lambda: model.places,
        lambda: model.weight_bytes,
        lambda: model.kv_bytes,
        lambda: model.cache_identity,
        lambda: model.zero_blocks([0]),
        model.attach_sampler,
        model.forward,
        model.find_non_finite,
    ]
    for ask in asked:
        with pytest.raises(ClosedError, match="the model is closed"):
            ask()
