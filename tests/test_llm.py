"""Generation over a fake model, whose text depends on every token that it finds in its cache."""

import gc
import json
import math
import pydoc
import re
import threading
import time
from collections import UserDict

import numpy as np
import pytest

from fake_model import BOS, EOS, VOCAB_SIZE, FakeModel, fake_llm, free_blocks, hashed, spells
from pyroclast import (
    LLM,
    ClosedError,
    ContextOverflowError,
    KernelError,
    NumericalError,
    RequestError,
    SamplingError,
    SamplingParams,
)

PROMPTS = ["one", "a longer prompt, read in several chunks", [1, 2, 3], "x"]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def without_address(value):
    """A test's id: two processes must give the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def by_hand(token_ids, n):
    """Greedy decoding of the fake model without any engine."""
    history = list(token_ids)
    for _ in range(n):
        history.append(int(np.argmax(hashed(history))))
    return history[len(token_ids) :]


# ---- the same text whatever happens around it ----------------------------------------------


def test_greedy_is_the_model_s_own_greedy():
    llm = fake_llm()
    outs = llm.generate(PROMPTS, GREEDY)
    assert [out.token_ids for out in outs] == [by_hand(o.prompt_token_ids, 12) for o in outs]
    assert [out.prompt_index for out in outs] == [0, 1, 2, 3]
    assert outs[2].prompt_token_ids == [1, 2, 3]


def test_prompts_of_a_batch_run_in_the_same_steps():
    llm = fake_llm()
    llm.generate(["a", "b", "c"], GREEDY)
    assert llm.model.steps == [(6, 3, 3)] + [(3, 3, 3)] * 11


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch_tokens": 1},
        {"max_batch_tokens": 5},
        {"max_seqs": 1},
        {"max_logits": 1},
        {"n_blocks": 20},
        {"n_blocks": 16, "max_batch_tokens": 7},
    ],
    ids=str,
)
def test_text_does_not_depend_on_neighbours_chunks_or_preemption(limits):
    params = SamplingParams(temperature=0.8, seed=5, max_tokens=24, ignore_eos=True)
    alone = [fake_llm().generate(prompt, params)[0] for prompt in PROMPTS]
    llm = fake_llm(**limits)
    together = llm.generate(PROMPTS, params)
    assert [out.token_ids for out in together] == [out.token_ids for out in alone]
    if limits.get("n_blocks") == 16:
        assert llm._loop.stepper.scheduler.n_preemptions > 0
    assert free_blocks(llm) == llm.model.n_blocks


def test_the_seed_decides_and_is_reported():
    llm = fake_llm()
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    [first] = llm.generate("x", params)
    [second] = llm.generate("x", params)
    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    [again] = llm.generate("x", params.replace(seed=first.seed))
    assert again.token_ids == first.token_ids


def test_one_params_each():
    llm = fake_llm()
    a, b = (SamplingParams(seed=3, max_tokens=n, ignore_eos=True) for n in (2, 5))
    assert [len(out.token_ids) for out in llm.generate(["x", "y"], [a, b])] == [2, 5]
    with pytest.raises(RequestError, match="2 SamplingParams for 1 prompts"):
        llm.generate("x", [a, b])
    with pytest.raises(RequestError, match="must be a SamplingParams"):
        llm.generate("x", {"temperature": 0})


def test_n_completions_differ_share_the_prompt_and_repeat_with_the_seed():
    llm = fake_llm(max_batch_tokens=64)
    params = SamplingParams(n=3, seed=1, max_tokens=8, ignore_eos=True)
    prompt = list(range(21))
    outs = llm.generate(["y", prompt], params)
    assert [(out.prompt_index, out.index) for out in outs] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)
    ]  # fmt: skip
    assert len({tuple(out.token_ids) for out in outs[3:]}) == 3
    again = fake_llm(max_batch_tokens=3).generate(prompt, params)
    assert [out.token_ids for out in again] == [out.token_ids for out in outs[3:]]
    # 21 tokens are five full blocks and one more: the copies compute only that one.
    fresh = fake_llm(max_batch_tokens=64)
    fresh.generate(prompt, params)
    assert fresh.model.steps[:2] == [(21, 1, 1), (3, 3, 3)]


# ---- where a text ends ---------------------------------------------------------------------


def write(text, **params):
    """What comes of a model that wants to write `text`, as completion and as stream."""
    options = SamplingParams(**{"temperature": 0, "max_tokens": 40, **params})
    [out] = fake_llm(spells(text, n_prompt=2)).generate([7, 7], options)
    stream = fake_llm(spells(text, n_prompt=2)).stream([7, 7], options)
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == out.text
    assert [i for chunk in chunks for i in chunk.token_ids] == out.token_ids
    assert chunks[-1].finish_reason == out.finish_reason
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert chunks[-1].completion.text == out.text
    assert stream.completions[0].text == out.text
    return out


def test_end_of_text():
    out = write("hello")
    assert (out.text, out.finish_reason, out.stop_reason) == ("hello", "stop", EOS)
    assert out.token_ids[-1] == EOS


def test_max_tokens():
    out = write("hello", max_tokens=3)
    assert (out.text, out.finish_reason, out.stop_reason) == ("hel", "length", None)


def test_max_tokens_none_fills_the_context():
    llm = fake_llm(max_seq_len=32)
    [out] = llm.generate([1, 2], SamplingParams(seed=1, ignore_eos=True))
    assert len(out.token_ids) == 30
    assert out.finish_reason == "length"


def test_ignore_eos():
    out = write("ab", ignore_eos=True, max_tokens=5)
    assert out.token_ids == [*b"ab", EOS, EOS, EOS]
    assert (out.text, out.finish_reason) == ("ab", "length")


def test_stop_string_over_several_tokens():
    out = write("one two three", stop="tw")
    assert (out.text, out.finish_reason, out.stop_reason) == ("one ", "stop", "tw")
    assert out.token_ids == list(b"one tw")


def test_text_held_back_for_a_stop_string_comes_when_the_text_ends():
    assert write("one tw", stop="two").text == "one tw"
    assert write("one two", stop="two!", max_tokens=6).text == "one tw"


def test_a_stop_string_that_is_a_control_token_stops_at_it():
    out = write("ab", stop="<eos>", ignore_eos=True)
    assert (out.text, out.stop_reason, out.token_ids) == ("ab", "<eos>", [*b"ab", EOS])


def test_stop_token_ids():
    out = write("abc", stop_token_ids=[ord("b")])
    assert (out.text, out.finish_reason, out.stop_reason) == ("a", "stop", ord("b"))


def test_min_tokens_forbids_stop_tokens_and_stop_strings():
    out = write("a", min_tokens=3, max_tokens=3)
    assert EOS not in out.token_ids
    assert len(out.token_ids) == 3
    out = write("abababab", stop="b", min_tokens=4)
    assert out.text == "aba"  # the first "b" came too early, the second is the fourth token
    llm = fake_llm(spells("a", n_prompt=1))
    outs = llm.generate([[1], [1]], [SamplingParams(min_tokens=n, seed=1) for n in (1, 5)])
    assert [len(out.token_ids) for out in outs] == [2, 6]


@pytest.mark.parametrize("min_tokens", range(12))
def test_a_stop_string_counts_if_it_ends_at_min_tokens_or_later(min_tokens):
    out = write("one STOP two", stop="STOP", min_tokens=min_tokens, max_tokens=12)
    expected = ("one ", "stop", "STOP") if min_tokens <= 8 else ("one STOP two", "length", None)
    assert (out.text, out.finish_reason, out.stop_reason) == expected


def test_tokens_that_only_pad_the_vocabulary_have_no_text():
    llm = fake_llm(spells("ab", 1))
    llm.tokenizer.vocab_size = ord("b")
    [out] = llm.generate([1], SamplingParams(temperature=0))
    assert (out.text, out.token_ids) == ("a", [*b"ab", EOS])


def test_no_half_characters():
    text = "für 3 € 🌋"
    assert write(text).text == text
    half = write(text, max_tokens=2)
    assert half.text == "f�"
    chunks = list(fake_llm(spells("€", 1)).stream([1], SamplingParams(temperature=0)))
    assert [chunk.text for chunk in chunks] == ["", "", "€", ""]


# ---- what is asked of the sampler ----------------------------------------------------------


def test_penalties_count_prompt_and_output():
    def likes(history):
        logits = np.zeros(VOCAB_SIZE, np.float32)
        logits[[65, 66, 67]] = [1.5, 1.4, 1.3]
        return logits

    def text(**penalty):
        params = SamplingParams(temperature=0, max_tokens=4, **penalty)
        return fake_llm(likes).generate([65, 1, 2, 3, 4, 5], params)[0].text

    assert text() == "AAAA"
    assert text(repetition_penalty=1.2) == "BCAA"  # all divided by 1.2: as at first
    assert text(presence_penalty=0.5) == "ABCA"
    assert text(frequency_penalty=0.09) == "AABA"


def test_penalties_are_right_beside_neighbours_that_come_and_go():
    params = [
        SamplingParams(seed=9, max_tokens=n, ignore_eos=True, frequency_penalty=1.5, min_tokens=3)
        for n in (4, 20, 9, 13)
    ]
    alone = [fake_llm().generate([5, 6], each)[0].token_ids for each in params]
    outs = fake_llm(max_batch_tokens=5, max_seqs=3).generate([[5, 6]] * 4, params)
    assert [out.token_ids for out in outs] == alone


def test_logit_bias_and_allowed_tokens():
    llm = fake_llm()
    [out] = llm.generate("x", GREEDY.replace(logit_bias={66: 100.0}))
    assert out.text == "B" * 12
    allowed = (67, 68)
    [out] = llm.generate("x", GREEDY.replace(allowed_token_ids=allowed))
    assert set(out.token_ids) == set(allowed)
    with pytest.raises(SamplingError, match=f"token {VOCAB_SIZE}"):
        llm.generate("x", GREEDY.replace(allowed_token_ids=[VOCAB_SIZE]))


def test_no_token_left_is_an_error_and_the_llm_goes_on():
    llm = fake_llm()
    params = SamplingParams(allowed_token_ids=[EOS], min_tokens=2)
    with pytest.raises(SamplingError, match="no token is left to choose"):
        llm.generate("x", params)
    assert free_blocks(llm) == 64
    assert llm.generate("x", GREEDY)


def test_logits_processors_see_the_tokens_and_change_the_logits():
    seen = []

    def only_next_letter(token_ids, logits):
        seen.append(list(token_ids))
        logits[:] = -np.inf
        logits[token_ids[-1] + 1] = 0
        return logits

    llm = fake_llm()
    params = GREEDY.replace(logits_processors=[only_next_letter], max_tokens=3)
    a, b = llm.generate([[65], [70]], [params, GREEDY.replace(max_tokens=3)])
    assert a.text == "BCD"
    assert b.token_ids == by_hand([70], 3)
    assert seen == [[65], [65, 66], [65, 66, 67]]


@pytest.mark.parametrize("answer", [None, np.zeros(3)])
def test_a_logits_processor_that_fails_ends_its_own_request(answer):
    def broken(token_ids, logits):
        if answer is None:
            raise ZeroDivisionError("oops")
        return answer

    llm = fake_llm()
    other = llm.stream("y", GREEDY)
    first = next(other)
    with pytest.raises(ZeroDivisionError if answer is None else SamplingError):
        llm.generate("x", GREEDY.replace(logits_processors=[broken]))
    assert len([first, *other]) == 12


class Shift:
    """A processor without a __qualname__, and with a long repr."""

    def __init__(self, ids, value):
        self.ids, self.value = ids, value

    def __repr__(self):
        return f"Shift({self.value}, {'-' * 1000})"

    def __call__(self, token_ids, logits):
        values = logits.astype(np.float64)
        values[self.ids] = self.value
        return values


def raises_a_logit(token_ids, logits):
    logits[5] = np.inf
    return logits


def gives_words(token_ids, logits):
    return ["one"] * len(logits)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (raises_a_logit, "raises_a_logit gave inf for token 5;"),
        (Shift([7], np.nan), r"Shift\(nan, -+\.\.\. gave nan for token 7;"),
        (Shift([7, 9, 4], np.nan), r"gave nan for token 4 and 2 other tokens;"),
        (Shift([3], 1e300), r"gave inf for token 3;"),
        (Shift(slice(None), -np.inf), r"gave -inf for every token"),
        (gives_words, "gives_words gave no array"),
    ],
)
def test_a_logits_processor_is_named_with_the_token_that_it_spoilt(processor, message):
    llm = fake_llm()
    unchanged = Shift([], 0.0)
    with pytest.raises(SamplingError, match=message) as caught:
        llm.generate("x", GREEDY.replace(logits_processors=[unchanged, processor]))
    assert len(str(caught.value)) < 300
    assert free_blocks(llm) == 64


def test_a_logits_processor_is_not_blamed_for_the_model():
    llm = fake_llm(lambda history: hashed(history) * np.float32(np.nan))
    params = GREEDY.replace(logits_processors=[Shift([], 0.0)])
    with pytest.raises(NumericalError, match=r"layer 3"):
        llm.generate([99, 2], params)


# ---- logprobs, score, logits ---------------------------------------------------------------


def log_softmax(logits):
    x = logits.astype(np.float64) - logits.max()
    return x - np.log(np.exp(x).sum())


def check_logprob(found, token_id, logits):
    expected = log_softmax(logits)
    assert found.token_id == token_id
    assert found.logprob == pytest.approx(expected[token_id], abs=1e-5)
    assert found.rank == 1 + int((logits > logits[token_id]).sum())
    assert found.is_greedy == (token_id == int(np.argmax(logits)))
    best = np.argsort(-logits, kind="stable")[: len(found.top)]
    assert [i for i, _ in found.top] == best.tolist()
    assert [p for _, p in found.top] == pytest.approx(expected[best].tolist(), abs=1e-5)


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 4}, {"max_logits": 2}], ids=str)
def test_logprobs_of_prompt_and_output(limits):
    llm = fake_llm(**limits)
    params = SamplingParams(seed=2, max_tokens=5, logprobs=3, prompt_logprobs=2, ignore_eos=True)
    for out in llm.generate(["some prompt of length", "other"], params):
        history = out.prompt_token_ids + out.token_ids
        assert out.prompt_logprobs[0] is None
        found = out.prompt_logprobs[1:] + out.logprobs
        assert len(found) == len(history) - 1
        for i, each in enumerate(found, start=1):
            check_logprob(each, history[i], hashed(history[:i]))
            assert len(each.top) == (2 if i < len(out.prompt_token_ids) else 3)


def test_top_logprobs_hold_possible_tokens_only():
    def two(history):
        logits = np.full(VOCAB_SIZE, -np.inf, np.float32)
        logits[[65, 66]] = 1, 0
        return logits

    [out] = fake_llm(two).generate("x", GREEDY.replace(logprobs=5, max_tokens=1))
    check_logprob(out.logprobs[0], 65, two([]))
    assert [token_id for token_id, _ in out.logprobs[0].top] == [65, 66]


def test_logprobs_are_not_there_unless_asked_for():
    [out] = fake_llm().generate("x", GREEDY)
    assert (out.logprobs, out.prompt_logprobs) == (None, None)
    [out] = fake_llm().generate("x", GREEDY.replace(logprobs=0))
    assert [each.top for each in out.logprobs] == [[]] * 12


def test_stream_carries_logprobs():
    [out] = fake_llm().generate("x", GREEDY.replace(logprobs=1))
    chunks = list(fake_llm().stream("x", GREEDY.replace(logprobs=1)))
    assert [each for chunk in chunks for each in chunk.logprobs] == out.logprobs


def test_a_rendered_text_needs_no_special_tokens():
    with fake_llm() as llm:
        params = SamplingParams(temperature=0, max_tokens=4)
        bare = llm.generate([*b"abc"], params)[0].token_ids
        assert llm.generate("abc", params, add_special_tokens=False)[0].token_ids == bare
        chunks = llm.stream("abc", params, add_special_tokens=False)
        assert [chunk.token_ids[0] for chunk in chunks] == list(bare)
        assert llm.generate("abc", params)[0].token_ids != bare
        with pytest.raises(RequestError, match="add_special_tokens must be True or False, got 1"):
            llm.generate("abc", params, add_special_tokens=1)


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 3}, {"max_logits": 1}], ids=str)
def test_score(limits):
    texts = ["what is likely", [5], [1, 2]]
    scores = fake_llm(**limits).score(texts, n_top=2)
    for score in scores:
        assert score.logprobs[0] is None
        for i in range(1, len(score.token_ids)):
            check_logprob(score.logprobs[i], score.token_ids[i], hashed(score.token_ids[:i]))
    assert scores[0].token_ids == [BOS, *b"what is likely"]
    logprobs = [each.logprob for each in scores[0].logprobs[1:]]
    assert scores[0].logprob == pytest.approx(sum(logprobs))
    assert scores[0].perplexity == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)))
    assert (scores[1].logprob, scores[1].perplexity) == (0.0, 1.0)
    json.dumps(scores[0].as_dict())


def test_score_tells_a_greedy_text():
    llm = fake_llm()
    [out] = llm.generate([3, 4], GREEDY)
    # The prompt itself is not what the model would have written: only its continuation is.
    [score] = llm.score([[3, 4, *out.token_ids]])
    assert all(each.is_greedy and each.rank == 1 for each in score.logprobs[2:])
    [other] = llm.score([[3, 4, *out.token_ids[:-1], (out.token_ids[-1] + 1) % 256]])
    assert not other.is_greedy


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 3}, {"max_logits": 2}], ids=str)
def test_logits_of_every_token(limits):
    token_ids = [9, 8, 7, 6, 5, 4, 3]
    logits = fake_llm(**limits).logits(token_ids)
    assert logits.dtype == np.float32
    assert logits.shape == (7, VOCAB_SIZE)
    for i in range(7):
        np.testing.assert_array_equal(logits[i], hashed(token_ids[: i + 1]))


def test_scoring_runs_beside_generation():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    first = next(stream)
    [score] = llm.score("a text to be scored")
    assert score.logprobs[-1].logprob < 0
    assert [first.token_ids[0], *(c.token_ids[0] for c in stream)] == by_hand([BOS, *b"abc"], 12)


# ---- bad requests, before any work ---------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([[]], "empty"),
        (["a", ""], r"prompt 1 \(of 2, counted from 0\) is empty"),
        ([-1], "token id -1, but the vocabulary has only ids 0 to 259"),
        ([1, 260], "token id 260"),
        ([True], "True"),
        ([1.0], "1.0"),
        (["a", [1, "b"]], "'b'"),
        (b"bytes", "got bytes"),
        (bytearray(b"bytes"), "got bytearray"),
        ([bytearray(b"bytes")], "got bytearray"),
        (memoryview(b"bytes"), "got memoryview"),
        ({1, 2}, "got set"),
        (np.array(5), "got ndarray of 0 dimensions"),
        (np.zeros((1, 2, 2), int), r"\(ndarray\) in it"),
        (np.array([1.0, 2.0]), "1.0"),
        (np.array([True]), "True"),
        ({}, "one of the keys prompt, prompt_token_ids, input_ids; got none"),
        ({"text": "a"}, "got 'text'"),
        ({"prompt": [1]}, r"the prompt\['prompt'\] must be text, got list"),
        ({"prompt_token_ids": "a"}, r"\['prompt_token_ids'\] must be token ids, got str"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "one of the keys"),
        (["a", {"prompt": ""}], r"prompt 1 \(of 2, counted from 0\) is empty"),
        (7, "int"),
        (["a", 7], "int"),
        (None, "NoneType"),
    ],
    ids=without_address,
)
def test_bad_prompts(prompt, message):
    llm = fake_llm()
    with pytest.raises(RequestError, match=message):
        llm.generate(prompt, GREEDY)
    assert llm.model.steps == []


@pytest.mark.parametrize("nothing", [[], (), np.array([], int)], ids=["list", "tuple", "array"])
def test_no_prompts_give_no_results(nothing):
    llm = fake_llm()
    assert llm.generate(nothing, GREEDY) == []
    assert llm.score(nothing) == llm.score("context", nothing) == []
    for takes_one in (llm.stream, llm.logits):
        with pytest.raises(RequestError, match="the prompt is empty"):
            takes_one(nothing)
    assert llm.model.steps == []


@pytest.mark.parametrize("prompt", [np.array([5, 6]), (5, 6), [np.int64(5), np.uint8(6)]], ids=str)
def test_token_ids_of_any_integer_type(prompt):
    [out] = fake_llm().generate(prompt, GREEDY)
    assert out.prompt_token_ids == [5, 6]
    assert all(type(i) is int for i in out.prompt_token_ids)


def test_several_arrays_are_several_prompts():
    assert len(fake_llm().generate(np.array([[5, 6], [7, 8]]), GREEDY)) == 2
    outs = fake_llm().generate([np.array([5]), [7, 8]], GREEDY)
    assert [out.prompt_token_ids for out in outs] == [[5], [7, 8]]


class Tensor:
    """As torch.Tensor: in one dimension it iterates to tensors without any, which have an __index__
    and an __iter__ that raises."""

    def __init__(self, value):
        self.value = value

    def __iter__(self):
        if isinstance(self.value, int):
            raise TypeError("iteration over a 0-d tensor")
        return (Tensor(each) for each in self.value)

    def __index__(self):
        return self.value


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt_token_ids": [5, 6]},
        {"prompt_token_ids": np.array([5, 6]), "prompt": None},
        UserDict(input_ids=[5, 6], attention_mask=[1, 1]),
        [{"prompt_token_ids": (5, 6)}],
        [np.array(5), np.array(6)],
        Tensor([5, 6]),
        [Tensor([5, 6])],
    ],
    ids=without_address,
)
def test_what_is_plainly_meant_as_token_ids(prompt):
    llm = fake_llm()
    [out] = llm.generate(prompt, GREEDY)
    assert out.prompt_token_ids == [5, 6]
    assert llm.score(prompt)[0].token_ids == [5, 6]
    assert next(llm.stream(prompt, GREEDY)).n_prompt_tokens == 2
    assert llm.logits(prompt).shape[0] == 2


def test_texts_in_mappings_are_texts():
    outs = fake_llm().generate([{"prompt": "ab"}, "c"], GREEDY)
    assert [out.prompt_token_ids for out in outs] == [[BOS, *b"ab"], [BOS, *b"c"]]


def test_tensors_are_token_ids():
    torch = pytest.importorskip("torch", reason="tensors need torch: pip install torch")
    llm = fake_llm()
    for prompt in (
        torch.tensor([5, 6]),
        [torch.tensor(5), torch.tensor(6)],
        [torch.tensor([5, 6])],
    ):
        assert llm.generate(prompt, GREEDY)[0].prompt_token_ids == [5, 6]
    assert llm.generate([torch.tensor([5]), [6]], GREEDY)[0].prompt_token_ids == [5]
    with pytest.raises(RequestError, match="Tensor of 0 dimensions"):
        llm.generate(torch.tensor(5))


@pytest.mark.parametrize(
    ("n_prompt", "params", "message"),
    [
        (32, {}, "32 tokens, but the context holds 32"),
        (33, {"max_tokens": 1}, "33 tokens"),
        (30, {"max_tokens": 3}, "max_tokens=2 at most"),
        (30, {"min_tokens": 3}, "min_tokens is 3"),
    ],
)
def test_context_overflow_is_an_error_before_any_work(n_prompt, params, message):
    llm = fake_llm(max_seq_len=32)
    with pytest.raises(ContextOverflowError, match=message):
        llm.generate([[1], [1] * n_prompt], SamplingParams(**params))
    with pytest.raises(ContextOverflowError, match=message):
        llm.stream([1] * n_prompt, SamplingParams(**params))
    assert llm.model.steps == []


def test_what_fits_exactly_runs():
    llm = fake_llm(n_blocks=8, max_seq_len=32)
    [out] = llm.generate([1] * 30, SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(out.token_ids) == 2
    assert llm.logits([1] * 32).shape[0] == 32
    for read in (llm.logits, llm.score):
        with pytest.raises(ContextOverflowError, match="33 tokens, but the context holds 32"):
            read([1] * 33)


def test_a_cache_smaller_than_the_context_is_the_limit():
    llm = fake_llm(n_blocks=4, max_seq_len=128)
    with pytest.raises(ContextOverflowError, match="the context holds 16"):
        llm.generate([1] * 16, GREEDY)


def test_one_prompt_only():
    llm = fake_llm()
    for call in (llm.stream, llm.logits):
        with pytest.raises(RequestError, match="takes one prompt, got 2"):
            call(["a", "b"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, KernelError, "device must be"),
        ({"max_batch_tokens": 0}, RequestError, "max_batch_tokens must be"),
        ({"max_seqs": True}, RequestError, "max_seqs must be"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        LLM("no such model", **options)


# ---- stopping early ------------------------------------------------------------------------


def test_closing_a_stream_frees_its_blocks_and_stops_its_work():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)
    assert free_blocks(llm) < 64
    stream.close()
    assert free_blocks(llm) == 64
    assert list(stream) == []
    assert len(llm.model.steps) == 1
    assert [out.finish_reason for out in stream.completions] == ["abort"]
    assert stream.completions[0].token_ids == by_hand([BOS, *b"abc"], 1)


def test_a_stream_closed_before_its_first_chunk_never_begins():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    stream.close()
    assert list(stream) == []
    with llm.stream("abc", GREEDY) as left:
        pass
    assert next(left, None) is None
    assert [out.finish_reason for out in stream.completions] == ["abort"]
    llm.generate("abc", GREEDY)
    assert [n_seqs for _, n_seqs, _ in llm.model.steps] == [1] * 12
    assert free_blocks(llm) == 64


def test_a_stream_that_is_dropped_or_left_stops():
    llm = fake_llm()
    for _ in llm.stream("abc", GREEDY):
        break
    gc.collect()
    assert free_blocks(llm) == 64
    with llm.stream("abc", GREEDY) as stream:
        next(stream)
    assert free_blocks(llm) == 64
    llm.stream("abc", GREEDY)  # never begun
    assert not llm._loop.stepper.scheduler


def test_a_stream_keeps_its_model_alive():
    assert len(list(fake_llm().stream("abc", GREEDY))) == 12


def test_close_during_a_step_takes_effect_at_the_next():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)
    llm.model.before_step = stream.close  # as a finalizer that runs inside a step would
    [out] = llm.generate("x", GREEDY)
    assert len(out.token_ids) == 12
    assert [n_seqs for _, n_seqs, _ in llm.model.steps] == [1, 2] + [1] * 11
    assert free_blocks(llm) == 64


def test_ctrl_c_during_a_long_prompt_stops_it_and_nothing_else():
    llm = fake_llm()
    other = llm.stream("abc", GREEDY)
    begun = [next(other).token_ids[0], next(other).token_ids[0]]
    n_before = len(llm.model.steps)

    def interrupt():
        if len(llm.model.steps) == n_before + 2:
            llm.model.before_step = lambda: None
            raise KeyboardInterrupt

    llm.model.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate([1] * 100, GREEDY)
    assert len(llm.model.steps) == n_before + 2
    assert begun + [chunk.token_ids[0] for chunk in other] == by_hand([BOS, *b"abc"], 12)
    assert free_blocks(llm) == 64


@pytest.mark.parametrize(("where", "call"), [("token_ids", 4), ("_give", 4), ("_finish", 2)])
def test_ctrl_c_at_any_place_leaves_the_llm_usable(where, call, monkeypatch):
    llm = fake_llm()
    other = llm.stream("abc", GREEDY)
    begun = [next(other).token_ids[0]]
    stepper = llm._loop.stepper
    owners = {"token_ids": stepper._results, "_give": stepper._outcome, "_finish": stepper}
    owner = type(owners[where])
    real = getattr(owner, where)
    n_calls = 0

    def interrupted(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(owner, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[1, 2]] * 9, GREEDY.replace(max_tokens=3))
    if where != "_give":  # there, the stream itself may be the one that is half done
        assert begun + [chunk.token_ids[0] for chunk in other] == by_hand([BOS, *b"abc"], 12)
    other.close()
    [out] = llm.generate([3, 4], GREEDY)
    assert out.token_ids == by_hand([3, 4], 12)
    assert free_blocks(llm) == 64


def test_nan_ends_the_requests_of_the_step_and_names_the_layer():
    def poisoned(history):
        return hashed(history) * np.float32(np.nan if 99 in history else 1)

    llm = fake_llm(poisoned)
    healthy = llm.stream([1, 2], GREEDY)
    first = next(healthy)
    sick = llm.stream([99, 2], GREEDY)
    with pytest.raises(NumericalError, match=r"layer 3 \(matmul\)"):
        next(sick)
    assert llm.model.zeroed
    with pytest.raises(NumericalError):
        llm.generate([[1], [99]], GREEDY)
    with pytest.raises(NumericalError):
        llm.score([99, 1, 2])
    with pytest.raises(NumericalError):
        llm.logits([99, 1, 2])
    assert [i for c in [first, *healthy] for i in c.token_ids] == by_hand([1, 2], 12)
    assert free_blocks(llm) == 64


def test_an_error_of_the_model_reaches_everybody_in_the_step():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)

    def fail():
        raise KernelError("broken kernel")

    llm.model.before_step = fail
    with pytest.raises(KernelError, match="broken kernel"):
        llm.generate("x", GREEDY)
    with pytest.raises(KernelError, match="broken kernel"):
        next(stream)
    llm.model.before_step = lambda: None
    assert free_blocks(llm) == 64
    assert len(llm.generate("x", GREEDY)) == 1


def test_use_after_close():
    with fake_llm() as llm:
        stream = llm.stream("abc", GREEDY)
        unbegun = llm.stream("abc", GREEDY)
        next(stream)
    assert llm.model.closed
    llm.close()
    for call in (
        lambda: llm.generate("x"),
        lambda: llm.stream("x"),
        lambda: llm.score("x"),
        lambda: llm.logits("x"),
        lambda: llm.chat([{"role": "user", "content": "x"}]),
        lambda: next(stream),
        lambda: next(unbegun),
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()


# ---- threads, streams side by side ---------------------------------------------------------


def test_streams_and_batches_interleave():
    llm = fake_llm()
    a, b = llm.stream([1], GREEDY), llm.stream([2], GREEDY)
    tokens = {1: [], 2: []}
    for chunk_a, chunk_b in zip(a, b, strict=True):
        tokens[1] += chunk_a.token_ids
        tokens[2] += chunk_b.token_ids
        if len(tokens[1]) == 4:
            [out] = llm.generate([3], GREEDY)
            assert out.token_ids == by_hand([3], 12)
    assert tokens == {1: by_hand([1], 12), 2: by_hand([2], 12)}


def test_threads_share_one_llm():
    llm = fake_llm()
    found, n_threads, deadline = {}, 4, time.monotonic() + 60

    def wait_for_all():
        """The first step waits for the other calls, however late the machine runs them."""
        begun = list(llm._loop.stepper.scheduler.requests())
        while not llm.model.steps and len(llm._loop._inbox) + len(begun) < n_threads:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    llm.model.before_step = wait_for_all

    def work(i):
        texts = []
        for k in range(3):
            prompt = [i, k]
            if k == 1:
                texts.append([t for c in llm.stream(prompt, GREEDY) for t in c.token_ids])
            else:
                texts.append(llm.generate([prompt], GREEDY)[0].token_ids)
        found[i] = texts

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {i: [by_hand([i, k], 12) for k in range(3)] for i in range(n_threads)}
    assert max(n_seqs for _, n_seqs, _ in llm.model.steps) > 1
    assert free_blocks(llm) == 64


def test_a_stream_is_served_while_another_thread_generates():
    model_calls = threading.Event()
    llm = fake_llm(max_seq_len=256)
    ended = []

    def long_work():
        llm.generate([1], SamplingParams(max_tokens=250, ignore_eos=True, seed=1))
        ended.append("batch")

    def step_takes_a_while():
        """Ten seconds in all while the stream has not ended: the machine may be busy."""
        model_calls.set()
        time.sleep(0.05 if len(llm.model.steps) > 20 and not ended else 0.002)

    llm.model.before_step = step_takes_a_while
    thread = threading.Thread(target=long_work)
    thread.start()
    assert model_calls.wait(30)
    list(llm.stream([2], GREEDY))
    ended.append("stream")
    thread.join(60)
    assert ended == ["stream", "batch"]


def test_a_stream_can_be_closed_from_another_thread():
    llm = fake_llm()
    stream = llm.stream([1], GREEDY)
    chunks = [next(stream)]
    thread = threading.Thread(target=stream.close)
    thread.start()
    thread.join(30)
    chunks += stream
    assert len(chunks) <= 2
    assert free_blocks(llm) == 64


# ---- chat, timings, progress ---------------------------------------------------------------


def test_chat_uses_the_template_once():
    llm = fake_llm()
    messages = [{"role": "user", "content": "hi"}]
    expected = [BOS, *b"user: hi\n"]
    [out] = llm.chat(messages, GREEDY)
    assert out.prompt_token_ids == expected
    assert out.token_ids == by_hand(expected, 12)
    streamed = [i for c in llm.stream_chat(messages, GREEDY) for i in c.token_ids]
    assert streamed == out.token_ids
    assert [o.token_ids for o in llm.chat([messages, messages], GREEDY)] == [out.token_ids] * 2
    [out] = llm.chat(messages, GREEDY, template={"tools": 1})
    assert out.prompt_token_ids == [*expected, *b"tools"]


def test_timings():
    llm = fake_llm(max_batch_tokens=4)
    [out] = llm.generate([1] * 10, GREEDY)
    timings = out.timings
    assert (timings.n_prompt_tokens, timings.n_completion_tokens) == (10, 12)
    assert 0 < timings.first_token_s < timings.total_s
    assert timings.first_token_s == pytest.approx(timings.queue_s + timings.prompt_s)
    assert timings.total_s == pytest.approx(timings.first_token_s + timings.decode_s)
    assert timings.prompt_tokens_per_s == pytest.approx(10 / timings.prompt_s)
    assert timings.decode_tokens_per_s == pytest.approx(11 / timings.decode_s)
    assert timings.bandwidth_share is None
    json.dumps(out.as_dict())
    llm.memory_bandwidth = 1e6  # the fake model reads 1000 bytes a step
    [out] = llm.generate([1] * 10, GREEDY)
    assert out.timings.bandwidth_share == pytest.approx(out.timings.decode_tokens_per_s / 1000)


def test_a_single_token_has_no_decode_rate():
    [out] = fake_llm().generate([1], GREEDY.replace(max_tokens=1))
    assert out.timings.decode_tokens_per_s is None
    assert out.timings.first_token_s > 0


def test_a_progress_bar_only_where_it_is_wanted(capsys, monkeypatch):
    llm = fake_llm()
    llm.generate(["a", "b", "c"], GREEDY)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("pyroclast.progress._DELAY_S", 0)
    llm.generate(["a", "b", "c"], GREEDY, progress=True)
    assert "/3" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    llm.generate(["a", "b", "c"], GREEDY)
    assert "/3" in capsys.readouterr().err
    llm.generate(["a", "b"], GREEDY)
    llm.generate(["a", "b", "c"], GREEDY, progress=False)
    assert capsys.readouterr().err == ""


def test_help_shows_no_private_names():
    shown = pydoc.render_doc(LLM, renderer=pydoc.plaintext)
    assert "max_batch_tokens" in shown
    assert re.findall(r"\b_[a-z]\w+", shown) == []


def test_the_fake_model_tells_a_wrong_block_table_apart():
    """What the tests above rest on: another history gives other logits."""
    assert not np.array_equal(hashed([1, 2]), hashed([2, 1]))
    assert isinstance(fake_llm().model, FakeModel)
