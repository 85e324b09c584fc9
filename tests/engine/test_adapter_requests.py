"""Adapters through LLM and AsyncLLM: whose bits, which names, what the caches share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_files import random_pairs, write_gguf, write_peft
from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.engine.stream import Stream
from pyroclast.errors import MemoryBudgetError, ModelFileError, RequestError
from pyroclast.model import kv_cache
from tiny import BASE, random_weights, write_folder
from tiny import write_gguf as write_model

PROMPT = np.random.default_rng(7).integers(0, 256, 75).tolist()
OTHER = np.random.default_rng(8).integers(0, 256, 41).tolist()
PARAMS = SamplingParams(seed=3, max_tokens=12, ignore_eos=True, logprobs=2)
NAMES = (None, "x", "y")
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two formats, and two adapters for it."""
    path = tmp_path_factory.mktemp("adapters")
    for quant in ("F32", "Q8_0"):
        write_model(path / f"{quant}.gguf", BASE, random_weights(BASE), quant)
    config = write_folder(path / "chat", BASE, random_weights(BASE)) / "tokenizer_config.json"
    template = {"chat_template": "{{ messages[0]['content'] * 20 }}"}
    config.write_text(json.dumps(json.loads(config.read_text()) | template))
    write_peft(path / "x", random_pairs(BASE, 4))
    write_gguf(path / "y.gguf", BASE, random_pairs(BASE, 2, ("wq", "w_down"), seed=1))
    return path


def load(folder: Path, model: str = "Q8_0.gguf", **options: Any) -> LLM:
    adapters = {"x": folder / "x", "y": str(folder / "y.gguf")}
    return LLM(folder / model, **{"adapters": adapters, "n_blocks": 64} | options)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with load(folder, "chat@q8_0", embeddings=True) as llm:
        yield llm


def answer(completion: Any) -> tuple[Any, ...]:
    return completion.token_ids, completion.logprobs


def finish(streams: list[Stream]) -> None:
    """Begins all, so that they run in the same steps, and reads each to its end."""
    for stream in streams:
        next(stream)
    for stream in reversed(streams):
        for _ in stream:
            pass


@pytest.mark.parametrize("model", ["F32.gguf", "Q8_0.gguf"])
def test_every_request_has_the_bits_that_it_has_alone(folder: Path, model: str) -> None:
    """In any batch, in other chunks, with other threads, and behind a cached prefix; one without
    adapter has those of a model without adapters."""
    alone = {}
    for name in NAMES:
        with load(folder, model, threads=1) as llm:
            alone[name] = [answer(c) for c in llm.generate([PROMPT, OTHER], PARAMS, adapter=name)]
    with load(folder, model, adapters=None) as plain:
        assert [answer(c) for c in plain.generate([PROMPT, OTHER], PARAMS)] == alone[None]
    assert len({tuple(each[0][0]) for each in alone.values()}) == 3
    with load(folder, model, threads=2, max_batch_tokens=50) as llm:
        for n_cached in (0, 64):
            order = [(name, i) for i in range(2) for name in NAMES]
            streams = [llm.stream([PROMPT, OTHER][i], PARAMS, adapter=name) for name, i in order]
            finish(streams)
            for (name, i), stream in zip(order, streams, strict=True):
                assert answer(stream.completions[0]) == alone[name][i]
            if n_cached:
                found = [s.completions[0].timings.n_cached_tokens for s in streams[:3]]
                assert found == [len(PROMPT) - 1] * 3


def test_preempted_requests_keep_their_adapters(folder: Path) -> None:
    """Eight blocks hold two of the six at a time: others lose theirs and are computed again."""
    order = [(name, i) for name in NAMES for i in range(2)]
    params = SamplingParams(seed=5, max_tokens=60, ignore_eos=True, logprobs=1)
    prompts = [PROMPT[:50], OTHER[:30]]
    found = []
    for n_blocks in (64, 8):
        with load(folder, n_blocks=n_blocks) as llm:
            streams = [llm.stream(prompts[i], params, adapter=name) for name, i in order]
            finish(streams)
            found.append([answer(stream.completions[0]) for stream in streams])
            assert (llm._loop.stepper.scheduler.n_preemptions > 0) == (n_blocks == 8)
    assert found[0] == found[1]


def test_the_cache_is_shared_within_an_adapter_only(llm: LLM) -> None:
    def n_cached(name: str | None, salt: str | None = None) -> int:
        params = SamplingParams(max_tokens=1, cache_salt=salt)
        [found] = llm.generate([PROMPT], params, adapter=name)
        return found.timings.n_cached_tokens

    first = [n_cached(name, salt) for name in NAMES for salt in (None, "a", "b")]
    again = [n_cached(name, salt) for name in NAMES for salt in (None, "a", "b")]
    assert first == [0] * 9 and again == [len(PROMPT) - 1] * 9


def test_each_prompt_of_a_call_may_have_its_own(llm: LLM, folder: Path) -> None:
    """In one call as in one call each, cached or not, with `n` answers each; params go along."""
    names = ["y", None, "x", None, "y", "x"]
    prompts = [PROMPT, PROMPT, PROMPT, OTHER, OTHER, OTHER]
    params = [SamplingParams(seed=i, max_tokens=6, logprobs=1, n=1 + i % 2) for i in range(6)]
    alone = [
        answer(found)
        for prompt, each, name in zip(prompts, params, names, strict=True)
        for found in llm.generate([prompt], each, adapter=name)
    ]
    with load(folder, "chat@q8_0") as fresh:
        for n_cached in (0, len(PROMPT) - 1):
            together = fresh.generate(prompts, params, adapter=names)
            assert [answer(found) for found in together] == alone
            assert [found.prompt_index for found in together] == [0, 1, 1, 2, 3, 3, 4, 5, 5]
            assert together[0].timings.n_cached_tokens == n_cached
    assert len({str(each) for each in alone}) == len(alone)
    [one] = llm.generate(PROMPT, params[0], adapter=("y",))
    assert answer(one) == alone[0]
    replies = llm.chat([MESSAGES] * 3, PARAMS, adapter=NAMES)
    for name, reply in zip(NAMES, replies, strict=True):
        assert answer(reply) == answer(llm.chat(MESSAGES, PARAMS, adapter=name)[0])
    with pytest.raises(RequestError, match=r"got 2 adapters for 6 prompts; give one name, or"):
        llm.generate(prompts, params, adapter=["x", "y"])
    with pytest.raises(RequestError, match="there is no adapter 'z'; this model has: x, y"):
        llm.generate([PROMPT, OTHER], adapter=["x", "z"])


def test_each_method_uses_the_adapter_it_is_given(llm: LLM, folder: Path) -> None:
    """The logits of each method are those of `logits`, which tests/families compares with peft."""
    rows = {name: llm.logits(PROMPT, adapter=name) for name in NAMES}
    logprobs = {}
    for name, logits in rows.items():
        [scored] = llm.score([PROMPT], adapter=name)
        logprobs[name] = scored.logprob
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        each = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        want = each[np.arange(len(PROMPT) - 1), PROMPT[1:]].sum()
        assert scored.logprob == pytest.approx(want, rel=1e-5)
        greedy = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
        [generated] = llm.generate([PROMPT], greedy, adapter=name)
        stream = llm.stream(PROMPT, greedy, adapter=name)
        streamed = [i for chunk in stream for i in chunk.token_ids]
        assert generated.token_ids == streamed == [int(logits[-1].argmax())]
    assert len(set(logprobs.values())) == 3
    vectors = [llm.embed([PROMPT], adapter=name)[0] for name in NAMES]
    assert min(np.abs(vectors[i] - vectors[i - 1]).max() for i in range(3)) > 1e-3


def test_chats_use_it_too(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    found = {}
    for name in NAMES:
        [reply] = llm.chat(MESSAGES, params, adapter=name)
        stream = llm.stream_chat(MESSAGES, params, adapter=name)
        assert [i for chunk in stream for i in chunk.token_ids] == reply.token_ids
        found[name] = tuple(reply.token_ids)
    assert len(set(found.values())) == 3


def test_coroutines_use_it_too(llm: LLM) -> None:
    """Many at once give what LLM gives, one after the other."""

    async def run() -> None:
        async with AsyncLLM.of(llm) as other:
            calls = [other.generate(PROMPT, PARAMS, adapter=name) for name in NAMES]
            for name, [completion] in zip(NAMES, await asyncio.gather(*calls), strict=True):
                [want] = llm.generate([PROMPT], PARAMS, adapter=name)
                assert answer(completion) == answer(want)
            several = await other.generate([PROMPT] * 3, PARAMS, adapter=NAMES)
            assert answer(several[2]) == answer(want)
            for name in NAMES:
                [want] = llm.generate([PROMPT], PARAMS, adapter=name)
                chunks = [c async for c in other.stream(PROMPT, PARAMS, adapter=name)]
                assert answer(chunks[-1].completion) == answer(want)
                [scored] = await other.score(PROMPT, adapter=name)
                assert scored.logprob == llm.score(PROMPT, adapter=name)[0].logprob
                [vector] = await other.embed(PROMPT, adapter=name)
                np.testing.assert_array_equal(vector, llm.embed(PROMPT, adapter=name)[0])
                [reply] = await other.chat(MESSAGES, PARAMS, adapter=name)
                stream = other.stream_chat(MESSAGES, PARAMS, adapter=name)
                assert answer([c async for c in stream][-1].completion) == answer(reply)
            with pytest.raises(RequestError, match="no adapter 'z'"):
                await other.generate(PROMPT, adapter="z")

    asyncio.run(run())


def test_an_unknown_name_is_told_the_others(llm: LLM, folder: Path) -> None:
    assert llm.adapters == ("x", "y")
    for use in (llm.generate, llm.stream, llm.score, llm.logits, llm.embed):
        with pytest.raises(RequestError, match="there is no adapter 'z'; this model has: x, y"):
            use(PROMPT, adapter="z")
    for use in (llm.score, llm.logits, llm.embed):
        with pytest.raises(RequestError, match=r"only generate\(\) and chat\(\) take a list"):
            use(PROMPT, adapter=["x"])
    with pytest.raises(RequestError, match=r"no adapter \['x'\]"):
        llm.generate(PROMPT, adapter=[["x"]])  # type: ignore[list-item]
    with (
        load(folder, adapters=None) as plain,
        pytest.raises(RequestError, match=r"no adapter 'x'; this model has: none; load them with"),
    ):
        plain.generate(PROMPT, adapter="x")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a:b"], "the name of an adapter must be 1 to 64 letters, .*; got 'a:b'"),
        ([""], "got ''"),
        (["a=b"], "got 'a=b'"),
        (["-a"], "got '-a'"),
        (["a" * 65], "got 'aaa"),
        ([3], "got 3"),
        (["a", "A"], "two adapters are called 'A'"),
        ([f"a{i}" for i in range(257)], "at most 256 adapters can be loaded, got 257"),
    ],
)
def test_names_that_an_adapter_cannot_have(folder: Path, names: list[Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(folder, adapters=dict.fromkeys(names, folder / "x"))


def test_adapters_must_be_named(folder: Path) -> None:
    with pytest.raises(RequestError, match=r'adapters must be \{"name": .*, got list'):
        load(folder, adapters=[folder / "x"])
    with pytest.raises(RequestError, match=r'adapters must be \{"name": .*, got list'):
        load(folder, adapters=[])
    with pytest.raises(RequestError, match=r"adapter 'x' must be the path of a folder .* got 5"):
        load(folder, adapters={"x": 5})


def test_slots_are_counted_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots of rank 4: A and B of seven products in two layers, float32."""
    widths = 2 * (96 + 96) + 2 * (96 + 32) + 3 * (96 + 160)
    with load(folder) as llm:
        counted = llm.model.plan.n_bytes["adapters"]
        assert 0 < counted - 2 * 2 * 4 * widths * 4 < 1000
    with load(folder, adapters=None) as plain:
        assert plain.model.plan.n_bytes.keys() == {"weights", "cache"}
        room = sum(plain.model.plan.n_bytes.values())
    monkeypatch.setattr(kv_cache, "available_bytes", lambda: room + counted - 1)
    with pytest.raises(MemoryBudgetError, match=r"the adapters need \d+ MiB and 64 cache blocks"):
        load(folder)
    monkeypatch.setattr(kv_cache, "available_bytes", lambda: room + counted)
    load(folder).close()


def test_a_value_that_is_not_finite_ends_the_load(folder: Path, tmp_path: Path) -> None:
    pairs = dict(random_pairs(BASE, 2, ("wq",)))
    pairs["layers.1.wq"][1][5, 1] = np.inf
    bad = write_peft(tmp_path, pairs)
    with pytest.raises(ModelFileError, match=r"^the adapter 'bad': .*holds a NaN or an infinity"):
        load(folder, adapters={"good": folder / "x", "bad": bad})


@pytest.mark.parametrize("path", ["missing.gguf", "F32.gguf", "."])
def test_an_adapter_that_cannot_be_read_is_named(folder: Path, path: str) -> None:
    with pytest.raises(ModelFileError, match=f"^the adapter 'poet': {folder / path}: "):
        load(folder, adapters={"x": folder / "x", "poet": folder / path})
