"""What a caller asks of the sampler, and what it tells, over the fake model."""

import json
import math

import numpy as np
import pytest

from fake_model import BOS, EOS, GREEDY, VOCAB_SIZE, by_hand, fake_llm, free_blocks, hashed
from pyroclast import (
    NumericalError,
    RequestError,
    SamplingError,
    SamplingParams,
)

# ---- what is asked of the sampler ----------------------------------------------------------------


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


def forgets(token_ids, logits):
    logits[3] = 9.0


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
        (forgets, "forgets returned None; it must return the logits"),
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


# ---- logprobs, score, logits ---------------------------------------------------------------------


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
