"""Requests on a model whose state cannot forget tokens: every text as if it ran alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fake_model import VOCAB_SIZE, FakeModel, hashed
from pyroclast import LLM, SamplingParams
from pyroclast.engine.cache_options import CacheOptions
from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import NO_STATE, StateSlots
from recurrent_model import RecurrentModel, recurrent_llm

GREEDY = SamplingParams(temperature=0, max_tokens=11, ignore_eos=True)


def model_of(llm: LLM) -> RecurrentModel:
    assert isinstance(llm.model, RecurrentModel)
    return llm.model


def slots_of(llm: LLM) -> StateSlots:
    states = llm._prefixes.states
    assert states is not None
    return states


def greedy(prompt: Sequence[int], n: int = 11) -> list[int]:
    """What the model says, one token after the other."""
    text = list(prompt)
    for _ in range(n):
        text.append(int(np.argmax(hashed(text))))
    return text[len(prompt) :]


def check(llm: LLM, prompts: list[list[int]]) -> list[int]:
    """That each answer is right; how many prompt tokens came from the cache."""
    found = llm.generate(prompts, GREEDY)
    for prompt, completion in zip(prompts, found, strict=True):
        assert list(completion.token_ids) == greedy(prompt)
    return [completion.timings.n_cached_tokens for completion in found]


def text(seed: int, n: int) -> list[int]:
    return random.Random(seed).choices(range(250), k=n)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_tokens": 5},
        {"max_seqs": 2},
        {"n_blocks": 9},
        {"n_slots": 3},
        {"prefix_cache": False, "n_blocks": 9},
        {"speculation": "suffix"},
        {"speculation": "suffix", "n_slots": 8},
    ],
    ids=str,
)
def test_texts_are_the_same_alone_and_in_any_batch(options: dict[str, Any]) -> None:
    prompts = [text(n, n) for n in (1, 13, 4, 16, 7)]
    prompts += [prompts[1] + [9], prompts[3][:8], [5, 6, 5, 6, 5, 6, 5, 6, 5]]
    llm = recurrent_llm(**options)
    check(llm, prompts)
    check(llm, prompts)
    if options.get("n_blocks"):
        assert llm._loop.stepper.scheduler.n_preemptions > 0


def test_a_prompt_that_was_read_goes_on_from_its_last_state() -> None:
    llm = recurrent_llm()
    prompt = text(1, 30)
    assert check(llm, [prompt]) == [0]
    n_read = model_of(llm).n_read
    assert check(llm, [prompt]) == [28]
    assert model_of(llm).n_read - n_read == 2 + 10
    # The next turn of a conversation, and a prompt that ends where a page ends.
    answer = greedy(prompt)
    assert check(llm, [[*prompt, *answer, 1, 2, 3]]) == [40]
    assert check(llm, [prompt[:28]]) == [0]  # no state at 24: somebody has to make one
    assert check(llm, [prompt[:28]]) == [24]


def test_a_prompt_that_ends_at_once_leaves_a_state_on_pages_of_another() -> None:
    llm, once = recurrent_llm(), SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    prompt = text(1, 30)
    check(llm, [prompt])
    found = [llm.generate([prompt[:21]], once)[0] for _ in range(2)]
    assert [each.timings.n_cached_tokens for each in found] == [0, 20]


def test_a_shared_beginning_has_a_state_after_the_second_text() -> None:
    llm = recurrent_llm()
    system = text(2, 22)
    cached = [check(llm, [[*system, *text(seed, 9)]])[0] for seed in (3, 4, 5, 6)]
    assert cached == [0, 0, 20, 20]


def test_states_of_new_texts_take_the_slots_of_old_ones() -> None:
    llm = recurrent_llm(n_slots=6, max_seqs=2)
    for seed in range(20, 30):
        prompt = text(seed, 30)
        assert [check(llm, [prompt])[0] for _ in range(2)] == [0, 28]
    assert check(llm, [text(20, 30)]) == [0]


def test_after_an_interruption_no_state_is_trusted() -> None:
    llm = recurrent_llm()
    check(llm, [text(1, 30)])
    stream = iter(llm.stream(text(2, 40), GREEDY))
    found = list(next(stream).token_ids)

    def interrupt() -> None:
        model_of(llm).states[:] = -9  # half written
        model_of(llm).before_step = lambda: None
        raise KeyboardInterrupt

    model_of(llm).before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate([text(3, 9)], GREEDY)
    found += [token_id for chunk in stream for token_id in chunk.token_ids]
    assert found == greedy(text(2, 40))
    assert check(llm, [text(1, 30)]) == [0]


def test_a_preempted_request_goes_on_from_its_last_page() -> None:
    """Two that do not fit together: the second computes less than all of its text again."""
    llm = recurrent_llm(n_blocks=12, max_batch_tokens=40)
    prompts = [text(7, 18), text(8, 18)]
    check(llm, prompts)
    scheduler = llm._loop.stepper.scheduler
    assert scheduler.n_preemptions == 1
    n_alone = 2 * (18 + 10)
    assert n_alone < model_of(llm).n_read < n_alone + 12


def test_a_step_that_a_callable_fails_is_done_again_with_the_same_states() -> None:
    def fail(token_ids: Any, logits: Any) -> Any:
        raise ValueError("no")

    llm = recurrent_llm()
    bad = SamplingParams(max_tokens=5, logits_processors=[fail])
    with pytest.raises(Exception, match="no"):
        llm.generate([text(1, 6)], bad)
    call = llm.stream(text(2, 9), GREEDY)
    first = next(iter(call)).token_ids
    with pytest.raises(Exception, match="no"):
        llm.generate([text(1, 6)], bad)
    assert [*first, *(i for chunk in call for i in chunk.token_ids)] == greedy(text(2, 9))


def test_a_step_that_failed_leaves_no_slot_taken() -> None:
    """Whoever is admitted before the next step is planned may need one at once."""
    slots = StateSlots(4, block_size=4)
    request = Request([0] * 6)
    request.n_computed, request.n_step_tokens = 0, 6
    slots.plan([request])
    assert slots.n_free == 2  # the last token's and a page's are taken
    slots.note_border(request)
    assert slots.n_free == 4


def test_states_are_bounded_however_long_the_text() -> None:
    """100,000 tokens take as many slots as 100: the beginning's, and the last page's."""
    slots = StateSlots(8, block_size=32)
    request = Request([0] * 100_000)
    request.n_prompt = 100_000
    for n_tokens in range(0, 100_000, 500):
        request.n_computed, request.n_step_tokens = n_tokens, 500
        slots.plan([request])
        request.n_computed += 500
        slots.advance([request])
        assert slots.n_free >= 8 - 3
        for _, slot, _ in request.snapshots:  # the prefix cache had no place for them
            slots.give_back(slot)
        request.snapshots = []
    slots.release(request)
    assert slots.n_free == 8


def test_no_slot_is_lost() -> None:
    """After random texts, with ends of all kinds, all slots are free or in the prefix cache."""
    rng, llm = random.Random(5), recurrent_llm(n_blocks=24, n_slots=14)
    texts = [text(seed, 20) for seed in range(3)]
    for _ in range(40):
        prompts = []
        for _ in range(rng.randint(1, 6)):
            base = rng.choice(texts)[: rng.randint(1, 20)]
            prompts.append([*base, *rng.choices(range(250), k=rng.randint(0, 6))])
        if rng.random() < 0.3:
            stream = iter(llm.stream(prompts[0], GREEDY))
            next(stream)
            del stream
        check(llm, prompts)
    slots = slots_of(llm)
    n_kept = sum(node.state != NO_STATE for node in llm._prefixes._nodes.values())
    assert 0 < n_kept == slots.n_slots - slots.n_free
    while slots.keeper is not None and slots.keeper.evict_state():
        pass
    assert slots.n_free == slots.n_slots


def test_the_cache_options_make_no_slots_for_other_models() -> None:
    assert CacheOptions().make(FakeModel()).states is None
    assert model_of(recurrent_llm()).logits.shape[1] == VOCAB_SIZE
