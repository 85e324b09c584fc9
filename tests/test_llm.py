"""Generation over a fake model, whose text depends on every token that it finds in its cache."""

import json
import pydoc
import re

import numpy as np
import pytest

from fake_model import BOS, GREEDY, PROMPTS, FakeModel, by_hand, fake_llm, free_blocks, hashed
from pyroclast import (
    LLM,
    RequestError,
    SamplingParams,
)

# ---- the same text whatever happens around it ----------------------------------------------------


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
    with pytest.raises(RequestError, match="2 SamplingParams for 1 prompts; give one for each"):
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


# ---- chat, timings, progress ---------------------------------------------------------------------


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
