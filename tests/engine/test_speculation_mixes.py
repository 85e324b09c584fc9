"""Speculation with everything at once: streams that are read slowly or given up, too few blocks,
pages on disk, adapters, grammars, penalties.  Every text and every bit is that of a request alone,
without drafts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from babble import FLAT, babbling, eager, plain
from fake_model import EOS, free_blocks
from lora_files import random_pairs, write_peft
from pyroclast import LLM, SamplingParams
from pyroclast.engine.speculate import Speculator
from pyroclast.engine.stream import Stream

Job = tuple[str, SamplingParams, str | None]  # prompt, parameters, adapter

COMMON = "abcdefabcabddcbaefaabbccddabcabcdeffedcbafeabdc"
GRAMMARS = (
    {"regex": "[a-f]{1,80}"},
    {"regex": "(abc|de|f[ab]){2,20}"},
    {"regex": "((abcdefab|cabc|d){2}e){2,9}"},
    {"choice": ["ab", "abc"]},
)

prompts = st.builds(
    lambda n, tail: COMMON[:n] + tail, st.integers(1, 47), st.text("abcdef", max_size=8)
)
some_params = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "max_tokens": st.integers(1, 60),
        "n": st.integers(1, 3),
        # Mostly a few letters, so that texts repeat.
        "logit_bias": st.just({**dict.fromkeys(range(97, 101), 9.0), EOS: 2.0, EOS + 1: 6.0}),
    },
    optional={
        "temperature": st.sampled_from([0, 0.3, 1.0, 1.5]),
        "top_p": st.floats(0.3, 1.0),
        "top_k": st.integers(1, 9),
        "min_p": st.just(0.05),
        "repetition_penalty": st.floats(0.8, 1.5),
        "frequency_penalty": st.floats(-0.5, 1.0),
        "presence_penalty": st.floats(-0.5, 1.0),
        "stop": st.sampled_from([("ab",), ("cda", "bb"), ("abca", "dd", "zzz")]),
        "stop_token_ids": st.just((97,)),
        "min_tokens": st.integers(0, 20),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "ignore_eos": st.booleans(),
        "allowed_token_ids": st.just(tuple(range(97, 103))),
        "cache_salt": st.sampled_from(["a", "b"]),
        "structured": st.sampled_from(GRAMMARS),
    },
).map(lambda each: SamplingParams(**{**each, "max_tokens": max(20, each["max_tokens"])}))
chances = st.randoms(use_true_random=False)


def jobs_of(*adapters: str | None) -> st.SearchStrategy[list[Job]]:
    job = st.tuples(prompts, some_params, st.sampled_from(adapters))
    return st.lists(job, min_size=1, max_size=5)


def read_in_any_order(streams: list[Stream], chance: Random) -> list[Stream]:
    """Reads all of them, some slowly, and gives a few up; returns those that came to their end."""
    for stream in streams:
        stream._call.max_unread = chance.choice([1, 2, 5, 128])
    ended, left = [], list(streams)
    while left:
        stream = chance.choice(left)
        if chance.random() < 0.01:
            stream.close()
            left.remove(stream)
            continue
        for _ in range(chance.choice([1, 3, 20])):
            if next(stream, None) is None:
                ended.append(stream)
                left.remove(stream)
                break
    return ended


def told(stream: Stream) -> list[dict[str, Any]]:
    return plain(sorted(stream.completions, key=lambda each: each.index))


def check(on: LLM, jobs: list[Job], expected: list[list[dict[str, Any]]], chance: Random) -> None:
    """Twice: the second time, answers and prompts are known."""
    for _ in range(2):
        streams = [on.stream(prompt, params, adapter=name) for prompt, params, name in jobs]
        ended = read_in_any_order(streams, chance)
        for stream, each in zip(streams, expected, strict=True):
            if stream in ended:
                assert told(stream) == each
        streams.clear()
        ended.clear()
        assert free_blocks(on) == on.model.n_blocks


def some_limits(chance: Random) -> dict[str, int]:
    ranges = {
        "n_blocks": (33, 200),
        "max_batch_tokens": (4, 64),
        "max_seqs": (2, 8),
        "max_logits": (4, 64),
    }
    return {name: chance.randint(*ends) for name, ends in ranges.items()}


@settings(max_examples=25, deadline=None)
@given(jobs_of(None), chances, st.booleans())
def test_streams_of_any_kind(jobs: list[Job], chance: Random, on_disk: bool) -> None:
    expected = [plain(babbling().generate(prompt, params)) for prompt, params, _ in jobs]
    with tempfile.TemporaryDirectory() as folder:
        cache = {"cache_dir": folder} if on_disk else {}
        with eager(babbling(cache, **some_limits(chance))) as on:
            check(on, jobs, expected, chance)


@pytest.fixture(scope="module", params=[("mistral", "q8_0"), ("llama", "bf16")], ids="-".join)
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LLM, LLM]]:
    """One without drafts, and one with drafts, few blocks and a folder of pages."""
    family, kv_dtype = request.param
    folder = tmp_path_factory.mktemp("mixes")
    config = tiny.CONFIGS[family]
    path = tiny.write_gguf(folder / "m.gguf", config, tiny.random_weights(config), "Q8_0")
    write_peft(folder / "x", random_pairs(config, 4))
    given: dict[str, Any] = {"kv_dtype": kv_dtype, "adapters": {"x": folder / "x"}}
    few: dict[str, Any] = {"n_blocks": 14, "max_batch_tokens": 48, "cache_dir": folder / "pages"}
    with (
        LLM(path, speculation="off", prefix_cache=False, n_blocks=64, **given) as off,
        LLM(path, **few, **given) as on,
    ):
        yield off, on


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(jobs_of(None, "x"), chances)
def test_bits_of_a_real_model_in_any_mix(
    models: tuple[LLM, LLM], jobs: list[Job], chance: Random
) -> None:
    off, on = models
    on._loop.stepper._speculator = Speculator(FLAT)
    expected = [plain(off.generate(prompt, params, adapter=name)) for prompt, params, name in jobs]
    check(on, jobs, expected, chance)


def test_the_mixes_draft_and_are_preempted(models: tuple[LLM, LLM]) -> None:
    _, on = models
    eager(on)
    scheduler = on._loop.stepper.scheduler
    before = scheduler.n_preemptions
    params = SamplingParams(n=3, max_tokens=60, ignore_eos=True, logit_bias={97: 20.0, 98: 20.0})
    found = on.generate([COMMON, COMMON[::-1], COMMON + "ab"], params, adapter="x")
    assert scheduler.n_preemptions > before
    assert sum(each.timings.n_accepted_tokens for each in found) > 50
