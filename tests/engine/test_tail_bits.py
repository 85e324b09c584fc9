"""Every bit of an answer whose prompt ends in a copied block is that of an answer alone."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_families
from babble import accepted, drafted, eager
from pyroclast import LLM, Completion, SamplingParams

RNG = np.random.default_rng(11)
TEXTS = [RNG.integers(0, 256, n).tolist() for n in (2, 30, 32, 45, 97)]
REPEATED = [TEXTS[1][:7] * 4]
Jobs = list[tuple[list[int], SamplingParams]]


def group_of(prompts: list[list[int]], **changes: Any) -> Jobs:
    """Four answers to each prompt, then one to each with other last tokens, and one that is
    longer."""
    params = [
        SamplingParams(seed=seed, max_tokens=40, ignore_eos=True, logprobs=3).replace(**changes)
        for seed in range(4)
    ]
    equal = [(prompt, each) for prompt in prompts for each in params]
    others = [([*prompt[:-2], 7, 9], params[0]) for prompt in prompts]
    return equal + others + [([*prompt, 1, 2, 3], params[1]) for prompt in prompts]


def bits(out: Completion) -> Any:
    return out.token_ids, out.logprobs


def alone(path: Path, jobs: Jobs, **options: Any) -> list[Any]:
    """One request after the other, without a cache."""
    options = {"prefix_cache": False, "speculation": "off", "threads": 1, **options}
    with LLM(path, **options) as llm:
        return [bits(llm.generate([prompt], params)[0]) for prompt, params in jobs]


def together(llm: LLM, jobs: Jobs) -> list[Completion]:
    return llm.generate([prompt for prompt, _ in jobs], [params for _, params in jobs])


def gguf(folder: Path, family: str) -> Path:
    config = tiny.CONFIGS[family]
    return tiny.write_gguf(folder / "tiny.gguf", config, tiny.random_weights(config), "Q8_0")


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_groups_side_by_side(family: str, kv_dtype: str, tmp_path: Path) -> None:
    """Four answers to each of five prompts and others; mistral has a window of 24."""
    path, jobs = gguf(tmp_path, family), group_of(TEXTS)
    expected = alone(path, jobs, kv_dtype=kv_dtype)
    with LLM(path, speculation="off", kv_dtype=kv_dtype, max_batch_tokens=70) as llm:
        found = together(llm, jobs)
    assert [bits(out) for out in found] == expected
    for i, text in enumerate(TEXTS[1:], 1):
        cached = [out.timings.n_cached_tokens for out in found[4 * i : 4 * i + 4]]
        assert cached == [0] + [len(text) - 1] * 3


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["gemma3", "gemma4", "gpt-oss", "qwen3-moe"])
def test_families(name: str, tmp_path: Path) -> None:
    """Windows, caches that layers share, experts."""
    tiny_families.write_folder(tmp_path, name)
    jobs = group_of(TEXTS[1:4])
    expected = alone(tmp_path, jobs)
    with LLM(tmp_path, speculation="off", max_batch_tokens=70) as llm:
        found = together(llm, jobs)
    assert [bits(out) for out in found] == expected
    assert sum(out.timings.n_cached_tokens for out in found) >= 3 * (29 + 31 + 44)


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8_0"])
def test_behind_drafts_that_were_wrong(kv_dtype: str, tmp_path: Path) -> None:
    """The next turn of a request that still runs is copied from a block with such drafts."""
    path = gguf(tmp_path, "mistral")
    jobs = group_of(REPEATED, temperature=0.4, max_tokens=70)
    expected = alone(path, jobs, kv_dtype=kv_dtype)
    forks = [([*jobs[0][0], *expected[0][0][:n], 5], jobs[0][1]) for n in (9, 33, 60)]
    expected_forks = alone(path, forks, kv_dtype=kv_dtype)
    with eager(LLM(path, kv_dtype=kv_dtype)) as llm:
        found = together(llm, jobs)
        assert [bits(out) for out in found] == expected
        assert drafted(found) > accepted(found)
    with eager(LLM(path, kv_dtype=kv_dtype)) as llm:
        runs = llm.stream(*jobs[0])
        read: list[int] = []
        while len(read) < 66:
            read += next(runs).token_ids
        found = together(llm, forks)
        assert [bits(out) for out in found] == expected_forks
        n_known = [len(jobs[0][0]) + n for n in (9, 33, 60)]
        assert [out.timings.n_cached_tokens for out in found] == n_known
        assert read + [i for chunk in runs for i in chunk.token_ids] == expected[0][0]


@pytest.mark.parametrize("seed", range(3))
def test_streams_that_are_paused_closed_and_preempted(seed: int, tmp_path: Path) -> None:
    """Each stream that comes to its end has the answer of a request alone."""
    choose = Random(seed)
    path, jobs = gguf(tmp_path, "mistral"), group_of([*TEXTS[1:], *REPEATED])
    expected = alone(path, jobs)
    choose.shuffle(order := list(range(len(jobs))))
    with eager(LLM(path, n_blocks=14, max_batch_tokens=20)) as llm:
        streams, n_ended = {i: llm.stream(*jobs[i]) for i in order}, 0
        read: dict[int, list[int]] = {i: [] for i in order}
        logprobs: dict[int, list[Any]] = {i: [] for i in order}
        for stream in streams.values():
            stream._call.max_unread = choose.choice([1, 2, 128])
            llm._loop.submit(stream._requests)
            stream._started = True
        while streams:
            i = choose.choice(list(streams))
            if choose.random() < 0.02:
                streams.pop(i).close()
                continue
            for _ in range(choose.choice([1, 3, 20])):
                if (chunk := next(streams[i], None)) is None:
                    assert (read[i], logprobs[i]) == expected[i]
                    del streams[i]
                    n_ended += 1
                    break
                read[i] += chunk.token_ids
                logprobs[i] += chunk.logprobs or []
        assert llm._loop.stepper.scheduler.n_preemptions
        assert n_ended > len(jobs) // 3
