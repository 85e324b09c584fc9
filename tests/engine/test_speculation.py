"""Speculation through the engine: the same text and the same bits as without, in fewer steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from babble import FLAT, PARAMS, accepted, babbling, drafted, eager, params_of, plain
from demo import demo_path
from fake_model import FakeModel, fake_llm, free_blocks, spells
from pyroclast import LLM, RequestError, SamplingError, SamplingParams
from pyroclast.engine.speculate import Speculator, speculator
from pyroclast.llm import assemble
from pyroclast.sampling.grammar import Matcher
from random_answers import SpecialByteTokenizer


@pytest.mark.parametrize("name", PARAMS)
def test_the_text_is_the_same_in_fewer_steps(name: str) -> None:
    params = [params_of(name, seed) for seed in range(4)]
    off, on = babbling(), eager(babbling())
    expected = [off.generate("The prompt", each)[0] for each in params]
    found = [on.generate("The prompt", each)[0] for each in params]
    assert plain(found) == plain(expected)
    assert 0 < accepted(found) < drafted(found) or name == "greedy"
    assert drafted(expected) == 0
    assert len(on.model.steps) < len(off.model.steps)  # type: ignore[attr-defined]
    assert free_blocks(on) == on.model.n_blocks


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_batch_tokens": 5},
        {"max_logits": 9},
        {"max_seqs": 5},
        {"n_blocks": 34},
        {"n_blocks": 33, "max_batch_tokens": 7},
    ],
    ids=str,
)
def test_mixed_requests_side_by_side(limits: dict[str, int]) -> None:
    """Under all parameters at once, two completions each, with too few blocks for all."""
    params = [params_of(name, seed, n=2, max_tokens=40) for seed, name in enumerate(PARAMS)]
    prompts = [f"{'abc' * i} prompt {i}" for i in range(len(params))]
    expected = babbling(**limits).generate(prompts, params)
    on = eager(babbling(**limits))
    found = on.generate(prompts, params)
    assert plain(found) == plain(expected)
    assert free_blocks(on) == on.model.n_blocks
    if "n_blocks" in limits:
        assert on._loop.stepper.scheduler.n_preemptions
    n_tokens, _, n_rows = np.array(on.model.steps).max(0)  # type: ignore[attr-defined]
    assert n_tokens <= on.model.max_batch_tokens and n_rows <= on.model.max_logits


some_params = st.fixed_dictionaries(
    {"seed": st.integers(0, 99), "max_tokens": st.integers(1, 50), "n": st.integers(1, 3)},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1.0, 1.5]),
        "top_p": st.floats(0.3, 1.0),
        "top_k": st.integers(1, 9),
        "repetition_penalty": st.floats(0.8, 1.5),
        "frequency_penalty": st.floats(-0.5, 1.0),
        "logit_bias": st.just({98: 1.5, 101: -4.0}),
        "stop": st.sampled_from([("ab",), ("cde", "fa"), ("zzz",)]),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "ignore_eos": st.booleans(),
        "allowed_token_ids": st.just(tuple(range(97, 103))),
        "structured": st.sampled_from(
            [{"regex": "[a-f]{1,40}"}, {"regex": "(abc|de|f[ab]){2,20}"}, {"choice": ["ab", "abc"]}]
        ),
    },
)


some_requests = st.tuples(st.text("abcdef", min_size=1, max_size=30), some_params)


@settings(max_examples=25, deadline=None)
@given(st.lists(some_requests, min_size=1, max_size=6), st.integers(33, 200), st.integers(4, 64))
def test_any_mix_of_requests(
    requests: list[tuple[str, dict[str, Any]]], n_blocks: int, max_batch_tokens: int
) -> None:
    limits = {"n_blocks": n_blocks, "max_batch_tokens": max_batch_tokens, "max_seqs": 8}
    prompts, params = [p for p, _ in requests], [SamplingParams(**each) for _, each in requests]
    expected = babbling(**limits).generate(prompts, params)
    on = eager(babbling(**limits))
    for _ in range(2):  # the second time it knows the answers
        assert plain(on.generate(prompts, params)) == plain(expected)
        assert free_blocks(on) == on.model.n_blocks


def test_a_stream_gives_each_token_with_its_logprobs() -> None:
    params = params_of("logprobs")
    off = list(babbling().stream("abcabc", params))
    on = list(eager(babbling()).stream("abcabc", params))
    for a, b in zip(off, on, strict=True):
        assert (a.text, a.token_ids, a.logprobs) == (b.text, b.token_ids, b.logprobs)
        assert a.n_completion_tokens == b.n_completion_tokens
    assert on[-1].completion is not None and on[-1].completion.timings.n_accepted_tokens


def test_a_callable_of_the_user_s_keeps_drafts_away_from_its_request_alone() -> None:
    asked = []

    def note(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        asked.append(len(token_ids))
        return logits

    params = [params_of("greedy"), params_of("greedy", logits_processors=[note])]
    expected = babbling().generate(["abcabc"] * 2, params)
    n_asked, asked = len(asked), []
    found = eager(babbling()).generate(["abcabc"] * 2, params)
    assert plain(found) == plain(expected)
    assert found[0].timings.n_accepted_tokens > 0
    assert found[1].timings.n_drafted_tokens == 0
    assert len(asked) == n_asked


@pytest.mark.parametrize(
    ("changes", "drafts", "usable"),
    [
        ({}, b"abcdef", b"abcdef"),
        ({"max_tokens": 5}, b"abcdef", b"abc"),
        ({"stop_token_ids": (ord("d"),)}, b"abcdef", b"abc"),
        ({"structured": {"regex": "[a-c]{9,40}"}}, b"abcdef", b"abc"),
        ({"structured": {"regex": "[a-f]{9,40}"}}, b"abcdef", b"abcdef"),
        ({"logits_processors": [lambda _, logits: logits]}, b"abcdef", b""),
    ],
    ids=["all", "max_tokens", "stop", "regex", "wide regex", "processor"],
)
def test_drafts_that_cannot_come_true_are_cut(
    changes: dict[str, Any], drafts: bytes, usable: bytes
) -> None:
    given = {"seed": 5, "max_tokens": 60, "ignore_eos": True, **changes}
    llm = babbling()
    with llm.stream("The prompt", SamplingParams(**given)) as stream:
        next(stream)
        [request] = stream._requests
        llm._loop.stepper.propose(request, list(drafts))
        next(stream)
        assert request.clock.n_drafted == len(usable)
        assert request.draft_ids == list(usable)


def test_a_grammar_that_fails_behind_a_draft_fails_only_where_the_text_gets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Matcher):
        __slots__ = ()

        def write_mask(self, address: int) -> None:
            del address
            raise SamplingError("too complex")

    copy = Matcher.copy

    def broken_copy(matcher: Matcher) -> Matcher:
        found = copy(matcher)
        found.__class__ = Broken
        return found

    params = params_of("grammar and penalties")
    expected = babbling().generate("abcabc", params)
    monkeypatch.setattr(Matcher, "copy", broken_copy)
    found = eager(babbling()).generate("abcabc", params)
    assert plain(found) == plain(expected)
    # Of a step's drafts only the first can be right: the row behind it gives no token.
    assert 0 < accepted(found) < drafted(found) / 2


# ---- what it costs, and where it is off ------------------------------------------------------


def test_a_text_that_repeats_takes_few_steps_and_one_that_does_not_no_draft() -> None:
    params = SamplingParams(temperature=0, max_tokens=100)
    text = "the same words, " * 5
    llm = fake_llm(spells(text, 4), speculation="suffix", max_seq_len=128)
    [found] = llm.generate([1, 2, 3, 4], params)
    assert found.text == text
    assert len(llm.model.steps) < 45  # type: ignore[attr-defined]
    llm = fake_llm(speculation="suffix")
    [found] = llm.generate([1, 2, 3], params.replace(max_tokens=60))
    assert found.timings.n_drafted_tokens <= 2


def test_an_answer_that_was_given_before_takes_few_steps() -> None:
    text = bytes(range(32, 112)).decode()  # no character twice
    llm = fake_llm(spells(text, 4), speculation="suffix", max_seq_len=128)
    params = SamplingParams(temperature=0, max_tokens=100)
    n_steps = []
    for salt in (None, None, "another"):
        before = len(llm.model.steps)  # type: ignore[attr-defined]
        assert llm.generate([1, 2, 3, 4], params.replace(cache_salt=salt))[0].text == text
        n_steps.append(len(llm.model.steps) - before)  # type: ignore[attr-defined]
    assert n_steps[0] == n_steps[2] == 81
    assert n_steps[1] < 30
    # Calls that share no prefixes share no answers.
    apart = fake_llm(spells(text, 4), speculation="suffix", max_seq_len=128, prefix_cache=False)
    for _ in range(2):
        apart.generate([1, 2, 3, 4], params)
    assert len(apart.model.steps) == 2 * 81  # type: ignore[attr-defined]


def test_a_full_batch_drafts_only_what_pays() -> None:
    """Eight texts of which one repeats: where a row costs as much as a step, nobody drafts."""
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    for costs, pays in ((FLAT, True), (tuple(map(float, range(1, 17))), False)):
        llm = babbling()
        llm._loop.stepper._speculator = Speculator(costs)
        found = llm.generate([f"{i} prompt" for i in range(8)], params)
        assert bool(drafted(found)) == pays


@pytest.mark.parametrize("speculation", ["auto", "suffix"])
def test_the_kernels_of_a_model_tell_what_its_drafts_cost(
    speculation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steep = tuple(1 + 0.6 * i for i in range(16))
    monkeypatch.setattr("pyroclast.engine.draft_costs.AVX2_STEP_COSTS", steep)
    params, widest = SamplingParams(temperature=0, max_tokens=100), {}
    for variant in ("cpp-avx2", "cpp-avx512vnni"):
        model = FakeModel(spells("the same words, " * 5, 4), max_seq_len=128)
        model.kernels["matmul.q4_0"] = variant
        assemble(model, SpecialByteTokenizer(), "fake", speculation).generate([1, 2, 3, 4], params)
        widest[variant] = max(n_tokens for n_tokens, _, _ in model.steps[1:])
    assert 1 < widest["cpp-avx2"] < widest["cpp-avx512vnni"]


def test_a_batch_in_which_no_draft_can_pay_sorts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def sorts(*_: object) -> None:
        raise AssertionError("drafts were sorted")

    monkeypatch.setattr("pyroclast.engine.speculate.n_drafts", sorts)
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    llm = babbling()
    speculator = Speculator(tuple(map(float, range(1, 17))))
    llm._loop.stepper._speculator = speculator
    found = llm.generate([f"{i} prompt" for i in range(8)], params)
    assert not drafted(found)
    assert speculator.past.n_tokens == 8 * 48  # they were read all the same
    with pytest.raises(AssertionError, match="sorted"):
        eager(llm).generate("abcabc", params)


def test_nobody_drafts_beside_a_prompt() -> None:
    llm = eager(babbling(max_batch_tokens=16))
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    first = llm.stream("abc", params)
    for _ in range(20):
        next(first)
    seen: list[tuple[int, int]] = []
    step = llm._loop.stepper.step

    def noted() -> None:
        step()
        running = llm._loop.stepper.scheduler.running
        n_reading = sum(r.n_computed < r.n_prompt for r in running)
        seen.append((n_reading, sum(r.n_step_drafts for r in running)))

    llm._loop.stepper.step = noted  # type: ignore[method-assign]
    second = llm.stream("x" * 60, params)
    next(second)
    assert max(n for n, _ in seen) == 1
    assert not any(n_drafts for n_reading, n_drafts in seen[1:] if n_reading)
    first.close()
    second.close()


def test_steps_with_drafts_do_not_count_as_steps_with_prompts() -> None:
    """They would shorten the chunks of prompts beside streams."""
    llm, noted = eager(babbling()), []
    pace = llm._loop.stepper.scheduler.pace
    pace.note = lambda *numbers: noted.append(numbers[:2])  # type: ignore[method-assign]
    found = llm.generate("abcabc", params_of("greedy"))
    assert accepted(found)
    assert noted[0] == (0, 7)
    assert set(noted[1:]) == {(1, 0)}
    assert len(noted) < len(llm.model.steps)  # type: ignore[attr-defined]


def test_an_interrupted_step_forgets_what_it_had_read() -> None:
    params = SamplingParams(temperature=0.7, seed=1, max_tokens=60, ignore_eos=True)
    [expected] = babbling().generate("abcabc", params)
    for n in range(1, 12):
        llm = eager(babbling())
        stream, other = llm.stream("abcabc", params), llm.stream("abcabc", params)
        text, read = next(stream).text, next(other).text
        speculator = llm._loop.stepper._speculator
        assert speculator is not None
        real, left = Speculator.drafts, [n]

        def broken(self: Speculator, requests: Any, real: Any = real, left: Any = left) -> Any:
            found = real(self, requests)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return found

        speculator.drafts = broken.__get__(speculator)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the text until then counts
            for chunk in stream:
                text += chunk.text
        # The stream is given up; another request goes on as if nothing had been.
        assert expected.text.startswith(text)
        assert all(request.drafter is None for request in llm._loop.stepper._live)
        assert read + "".join(chunk.text for chunk in other) == expected.text
        assert plain(llm.generate("abcabc", params)) == plain([expected])
        assert free_blocks(llm) == llm.model.n_blocks


@pytest.mark.parametrize(
    ("speculation", "device", "is_on"),
    [
        ("auto", "cpu", True),
        ("auto", "cuda", False),
        ("suffix", "cuda", True),
        ("off", "cpu", False),
    ],
)
def test_where_it_is_on(speculation: str, device: str, is_on: bool) -> None:
    model = FakeModel()
    model.device = device
    llm = assemble(model, SpecialByteTokenizer(), "fake", speculation=speculation)
    assert (llm._loop.stepper._speculator is not None) == is_on


@pytest.mark.parametrize("given", ["eagle", "on", ""])
def test_an_unknown_kind_names_those_that_there_are(given: str) -> None:
    known = "'auto', 'off', 'suffix', 'draft', 'mtp'"
    with pytest.raises(RequestError, match=f"{known}, got '{given}'"):
        LLM("no such file.gguf", speculation=given)


# ---- bits of real models ----------------------------------------------------------------------


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8_0"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_logprobs_and_cached_blocks_have_the_same_bits(
    tmp_path: Path, family: str, kv_dtype: str
) -> None:
    """Over the ends of blocks (32 positions) and, in mistral, a window of 24.  The second prompt
    goes on from the blocks in which drafts were rejected."""
    config = tiny.CONFIGS[family]
    path = tiny.write_gguf(tmp_path / "tiny.gguf", config, tiny.random_weights(config), "Q8_0")
    params = SamplingParams(temperature=0.4, seed=3, max_tokens=70, ignore_eos=True, logprobs=2)
    prompt = [1, 7, 200, 33, 5] * 4
    with LLM(path, speculation="off", kv_dtype=kv_dtype, prefix_cache=False) as off:
        expected = off.generate(prompt, params.replace(n=2))
        longer = [*prompt, *expected[0].token_ids, 9, 9]
        expected_longer = off.generate(longer, params.replace(max_tokens=12))
    with eager(LLM(path, kv_dtype=kv_dtype)) as on:
        found = on.generate(prompt, params.replace(n=2))
        assert plain(found) == plain(expected)
        assert drafted(found) > 0
        found = on.generate(longer, params.replace(max_tokens=12))
        assert found[0].timings.n_cached_tokens == 20 + 69
        assert plain(found) == plain(expected_longer)


@pytest.fixture(scope="module")
def demos() -> Iterator[tuple[LLM, LLM]]:
    with (
        LLM(demo_path(), speculation="off", n_blocks=64) as off,
        LLM(demo_path(), n_blocks=64) as on,
    ):
        yield off, on


COPY = "Repeat the list.\none, two, three, four, five, six\none, two, three, four, five, six\none,"


@pytest.mark.parametrize("costs", [None, FLAT], ids=["by its costs", "eager"])
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.7, "logprobs": 0},
        {"temperature": 1.0, "frequency_penalty": 0.2, "min_tokens": 20},
        {"temperature": 0.8, "structured": {"json_object": True}},
        {"temperature": 0.8, "stop": ["six"]},
    ],
    ids="-".join,
)
def test_the_demo_model_writes_the_same(
    demos: tuple[LLM, LLM], changes: dict[str, Any], costs: tuple[float, ...] | None
) -> None:
    off, on = demos
    on._loop.stepper._speculator = Speculator(costs) if costs else Speculator()
    params = SamplingParams(**{"seed": 4, "max_tokens": 40, **changes})
    prompts = [COPY, "The weather", COPY + " two"]
    assert plain(on.generate(prompts, params)) == plain(off.generate(prompts, params))


def test_a_copy_on_the_demo_model_is_drafted_by_default(demos: tuple[LLM, LLM]) -> None:
    off, on = demos
    on._loop.stepper._speculator = Speculator()
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    [expected], [found] = off.generate(COPY, params), on.generate(COPY, params)
    assert found.text == expected.text
    timings = found.timings
    assert 20 < timings.n_accepted_tokens <= timings.n_drafted_tokens


@pytest.mark.parametrize(
    ("device", "is_recurrent", "why"),
    [("cpu", True, "the model has recurrent layers"), ("cuda", False, "it runs on 'cuda'")],
)
def test_auto_says_why_it_tries_no_drafts(
    caplog: pytest.LogCaptureFixture, device: str, is_recurrent: bool, why: str
) -> None:
    caplog.set_level("INFO", "pyroclast")
    assert speculator("auto", device, is_recurrent) is None
    [line] = [record.getMessage() for record in caplog.records]
    assert why in line and '"suffix" tries them' in line
    caplog.clear()
    assert speculator("off", device, is_recurrent) is None
    assert speculator("suffix", device, is_recurrent) is not None
    assert speculator("auto", "cpu") is not None
    assert not caplog.records
