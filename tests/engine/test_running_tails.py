"""What running requests lend of their last blocks: a group of answers computes its prompt once."""

from __future__ import annotations

import numpy as np
import pytest

from fake_model import FakeModel, fake_llm, free_blocks
from played import BLOCK, Played
from pyroclast import SamplingParams
from pyroclast.engine.partial_blocks import Part
from pyroclast.engine.request import Request
from pyroclast.engine.running_tails import Tail
from pyroclast.llm import LLM, assemble
from random_answers import SpecialByteTokenizer

PROMPT = list(range(30))


def play(n_blocks: int = 64, max_batch_tokens: int = 256, block_size: int = 32) -> Played:
    return Played(
        n_blocks=n_blocks,
        block_size=block_size,
        max_batch_tokens=max_batch_tokens,
        max_seqs=8,
        parts=True,
    )


def run_all(played: Played, requests: list[Request]) -> None:
    for request in requests:
        played.run(request)


@pytest.mark.parametrize("max_batch_tokens", [9, 256])
@pytest.mark.parametrize("n_prompt", [1, 5, 30, 31, 32, 33, 45, 64, 65, 102])
def test_a_group_computes_its_prompt_once(n_prompt: int, max_batch_tokens: int) -> None:
    """And the last token of each: its logits are needed."""
    played = play(max_batch_tokens=max_batch_tokens)
    group = [played.add(range(n_prompt)) for _ in range(8)]
    run_all(played, group)
    assert played.n_prompt_computed == n_prompt + 7
    assert [request.n_cached for request in group] == [0] + [n_prompt - 1] * 7


def test_prompts_that_differ_at_their_ends_compute_the_ends_only() -> None:
    played = play()
    group = [played.add([*PROMPT[:26], 50 + i, 60 + i]) for i in range(8)]
    assert played.step() == group[:1]
    assert played.step() == group
    assert played.n_prompt_computed == 28 + 7 * 2
    played.finish(*group[1:])
    longer = played.add([*PROMPT[:26], 50, 60, 90, 91])
    played.run(longer)
    assert longer.n_cached == 28


def test_an_answer_that_runs_lends_its_own_tokens_too() -> None:
    """As where an agent forks a conversation."""
    played = play()
    first = played.add(PROMPT[:10])
    played.run(first, n_tokens=40)
    fork = played.add([*first.token_ids[:47], 99])
    played.run(fork)
    assert fork.n_cached == 47
    assert fork.blocks[0] == first.blocks[0] and fork.blocks[1] != first.blocks[1]


@pytest.mark.parametrize("n_same", [1, 5, 14])
def test_unlike_prompts_with_a_short_common_beginning_do_not_wait(n_same: int) -> None:
    played = play()
    group = [played.add([*PROMPT[:n_same], *[100 + i] * (30 - n_same)]) for i in range(8)]
    assert played.step() == group


def test_nobody_waits_for_a_few_tokens() -> None:
    played = play()
    group = [played.add([1, 2, 3, i]) for i in range(8)]
    assert played.step() == group
    played = play()
    group = [played.add([1, 2, 3, 4, i]) for i in range(8)]
    assert played.step() == group[:1]


def test_nobody_waits_for_more_than_the_end_of_a_prompt() -> None:
    """The other one reads on behind the block: when it lends depends on all of its prompt."""
    played = play(max_batch_tokens=64)
    played.add(range(300))
    part = played.add(range(30))
    assert part in played.step()


def test_a_wait_must_bring_more_than_is_there() -> None:
    """Prompts that share what an earlier one lends already are read side by side."""
    played = play()
    first = played.add(PROMPT)
    played.run(first)
    group = [played.add([*PROMPT[:20], *[100 + i] * 10]) for i in range(4)]
    assert played.step() == [first, *group]
    assert [request.n_cached for request in group] == [20] * 4


def test_prompts_with_ever_longer_common_beginnings_do_not_queue_up() -> None:
    played = play()
    group = [played.add([*[7] * (16 + i), *[100 + i] * (14 - i)]) for i in range(8)]
    assert played.step() == group[:1]
    assert played.step() == group


def test_nobody_waits_for_who_is_paused_or_preempted_or_due_later() -> None:
    played = play(max_batch_tokens=10)
    first, second = played.add(PROMPT), played.add(PROMPT)
    assert played.step() == [first]
    played.scheduler.pause([first])
    assert played.step() == [second]
    assert second.n_cached == 0
    played.scheduler.resume([first])
    earlier = Request(PROMPT)
    earlier.order = (-1.0, 0)
    assert played.cache.find(earlier) == [] and earlier.source is None
    third = played.add(PROMPT)
    assert third not in played.step()
    played.scheduler.restart_all()
    run_all(played, [first, second, third])
    assert [request.n_cached for request in (first, second, third)] == [0, 0, 29]


def test_one_who_is_paused_behind_its_prompt_lends() -> None:
    played = play()
    first = played.add(PROMPT)
    played.run(first)
    played.scheduler.pause([first])
    second = played.add(PROMPT)
    assert played.step() == [second]
    assert second.n_cached == 29


def test_when_the_one_that_is_waited_for_is_cancelled_the_next_one_computes() -> None:
    played = play(max_batch_tokens=10)
    group = [played.add(PROMPT) for _ in range(4)]
    assert played.step() == group[:1]
    played.finish(group[0])
    assert played.step() == group[1:2]
    run_all(played, group[1:])
    assert [request.n_cached for request in group[1:]] == [0, 29, 29]


def test_who_ends_with_its_prompt_has_lent_it() -> None:
    played = play()
    group = [played.add(PROMPT) for _ in range(3)]
    played.step()
    played.finish(group[0])
    played.step()
    assert [request.n_cached for request in group[1:]] == [29, 29]


def test_one_that_is_preempted_for_the_request_itself_is_not_copied() -> None:
    played = play(n_blocks=3, block_size=BLOCK)
    later = played.add([1, 2, 3])
    played.run(later)
    earlier = Request([1, 2, 9, 9, 9, 9, 9, 9, 9])
    earlier.order = (-1.0, 0)
    played.scheduler.waiting.add(earlier)
    assert played.step() == [earlier]
    assert later in played.scheduler.waiting
    assert earlier.source is None and earlier.n_cached == 0


def test_a_prompt_whose_rows_are_wanted_neither_waits_nor_skips() -> None:
    played = play()
    first = played.add(PROMPT)
    rows = played.add(PROMPT, wants_prompt_rows=True)
    assert rows in played.step()
    again = played.add(PROMPT, wants_prompt_rows=True)
    played.run(again)
    assert (rows.n_cached, again.n_cached) == (0, 0)
    played.finish(first, rows, again)


def test_only_requests_with_one_root_share() -> None:
    played = play()
    group = [played.add(PROMPT, root=root) for root in (b"one", b"two")]
    assert played.step() == group
    others = [played.add(PROMPT, root=root) for root in (b"one", b"three")]
    assert played.step() == [*group, *others]
    assert [request.n_cached for request in others] == [29, 0]


def test_one_whose_drafts_were_wrong_lends_what_was_right() -> None:
    played = play()
    first = played.add(PROMPT[:10])
    played.run(first)
    played.propose(first, 1)
    played.step()
    assert len(first.token_ids) == 13
    fork = played.add([*first.token_ids, 50])
    played.run(fork)
    assert fork.n_cached == 12


def test_tokens_that_a_grammar_forced_are_lent_once_logits_follow_them() -> None:
    played = play(max_batch_tokens=4)
    first = played.add(PROMPT[:4])
    played.run(first)
    first.token_ids += [5] * 9
    text = [*first.token_ids, 50]
    played.step()
    assert first.n_computed > first.n_prompt
    fork = played.add(text)
    played.scheduler.schedule()
    assert fork in played.scheduler.waiting
    played.run(fork)
    assert fork.n_cached == len(text) - 1


def test_forced_tokens_that_end_one_short_of_the_text_are_neither_lent_nor_kept() -> None:
    """No logits stand behind them yet, although a single token is left to compute."""
    played = play(max_batch_tokens=9)
    first = played.add(PROMPT[:4])
    played.run(first)
    first.token_ids += [5] * (10 - first.n_unread)
    played.step()
    assert first.n_unread == 1
    fork = played.add([*first.token_ids, 50])
    played.scheduler.schedule()
    assert fork in played.scheduler.waiting
    played.finish(first)
    played.run(fork)
    assert fork.n_cached == 0


def test_what_a_failure_copied_from_is_lent_and_kept_no_more() -> None:
    played = play()
    first = played.add(PROMPT[:10])
    played.run(first)
    second = played.add(PROMPT[:10])
    played.run(second)
    played.finish(second, spoiled=True)
    third = played.add(PROMPT[:10])
    played.run(third)
    assert third.n_cached == 0
    played.finish(first)
    assert len(played.cache) == 0


@pytest.mark.parametrize("then", ["goes on", "ends", "is extended", "is evicted"])
def test_what_a_failure_copied_from_is_read_no_more_wherever_it_has_gone(then: str) -> None:
    """The tail that it copied has become a block of the cache meanwhile, or has gone."""
    played = play()
    text = PROMPT[:20]
    first = played.add([*text, 40])
    played.run(first)
    second = played.add([*text, 50])
    played.run(second)
    assert second.n_cached == 20
    played.scheduler.pause([second])
    if then == "goes on":
        played.run(first, n_tokens=20)
        played.run(played.add([90]))  # in a step that takes the first block in
    else:
        played.finish(first)
    if then == "is extended":
        longer = played.add([*first.token_ids[:22], 60])
        played.run(longer)
        played.finish(longer)
    if then == "is evicted":
        played.cache.evict(9)
    played.finish(second, spoiled=True)
    third = played.add([*text, 70])
    played.run(third)
    assert third.n_cached == 0


def test_a_failure_ends_the_lending_of_others_that_copied_the_same() -> None:
    played = play()
    first, second = played.add([*PROMPT[:20], 40]), played.add([*PROMPT[:20], 50])
    played.run(second)
    assert second.n_cached == 20
    third = played.add([*second.token_ids, 60])
    played.run(third)
    assert third.n_cached == 21
    played.finish(first)  # which has less of the text than was copied
    played.finish(third, spoiled=True)
    again = played.add([*second.token_ids, 70])
    played.run(again)
    assert again.n_cached == 20


def test_who_waits_for_room_holds_no_request_that_has_ended() -> None:
    played = play(n_blocks=2)
    first = played.add(PROMPT)
    played.run(first)
    waits = played.add([*PROMPT, *range(50, 80)])
    played.step()
    assert waits in played.scheduler.waiting and waits.source is not None
    played.finish(first)
    assert isinstance(waits.source, Part) and isinstance(waits.source.holder, Tail)
    assert (waits.source.holder.request, waits.source.token_ids) == (None, PROMPT)


# ---- through LLM ---------------------------------------------------------------------------------


class LongBlocks(FakeModel):
    block_size = 32


def llm_of(**limits: int) -> LLM:
    given = {"max_batch_tokens": 256, "max_logits": 64, "n_blocks": 32}
    return assemble(LongBlocks(**{**given, **limits}), SpecialByteTokenizer(), "fake", "off")


@pytest.mark.parametrize("max_tokens", [1, 6])
def test_the_answers_to_one_prompt_compute_it_once(max_tokens: int) -> None:
    params = SamplingParams(n=8, seed=3, max_tokens=max_tokens, ignore_eos=True)
    llm = llm_of()
    found = llm.generate([PROMPT], params)
    n_tokens, _, _ = np.array(llm.model.steps).sum(0)  # type: ignore[attr-defined]
    assert n_tokens == 30 + 7 + 8 * (max_tokens - 1)
    assert [each.timings.n_cached_tokens for each in found] == [0] + [29] * 7
    cold = fake_llm(prefix_cache=False).generate([PROMPT], params)
    assert [each.token_ids for each in found] == [each.token_ids for each in cold]
    assert free_blocks(llm) == llm.model.n_blocks


def test_scores_of_continuations_read_their_context_once() -> None:
    llm = llm_of()
    pairs = [[40 + i, 41 + i] for i in range(4)]
    found = llm.score(PROMPT[:20], continuations=pairs)
    n_tokens, _, _ = np.array(llm.model.steps).sum(0)  # type: ignore[attr-defined]
    assert n_tokens == 21 + 3 * 2
    cold = fake_llm(prefix_cache=False).score(PROMPT[:20], continuations=pairs)
    assert found == cold
