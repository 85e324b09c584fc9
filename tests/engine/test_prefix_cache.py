"""The prefix cache: what it shares, what it keeps, and that no bit depends on it."""

import random

import numpy as np
import pytest

from fake_model import ByteTokenizer, FakeModel
from played import BLOCK, Played
from pyroclast import SamplingParams
from pyroclast.engine.request import Request
from pyroclast.errors import SamplingError
from pyroclast.llm import assemble


def test_a_later_prompt_takes_over_the_full_blocks_of_an_earlier_one():
    played = Played()
    a = played.add(range(10))
    played.run(a)
    played.finish(a)
    assert len(played.cache) == 2
    b = played.add([*range(8), 50, 51, 52])
    played.run(b)
    assert (b.n_cached, played.n_computed) == (8, 10 + 3)


def test_the_last_token_is_always_computed():
    played = Played()
    a = played.add(range(8))
    played.run(a)
    played.finish(a)
    b = played.add(range(8))
    played.run(b)
    assert b.n_cached == 4


def test_what_was_generated_is_shared_as_well():
    played = Played()
    a = played.add(range(6))
    played.run(a, n_tokens=7)
    played.finish(a)
    b = played.add(a.token_ids)
    played.step()
    assert b.n_cached == 12


def test_two_prompts_that_come_together_compute_what_they_share_once():
    played = Played()
    a, b = played.add(range(13)), played.add([*range(12), 99])
    assert played.step() == [a]
    assert played.step() == [a, b]
    assert b.n_cached == 12
    assert b.blocks[:3] == a.blocks[:3]


def test_no_more_requests_are_passed_over_than_have_a_place():
    played = Played(max_batch_tokens=4, max_seqs=3)
    first = played.add(range(20))
    same = [played.add(range(20)) for _ in range(4)]
    other = played.add([90, 91])
    assert played.step() == [first]
    assert other in played.scheduler.waiting
    played.finish(*same[2:])
    assert other in played.step()


def test_nobody_waits_for_a_request_that_is_paused_or_gone_or_due_later():
    played = Played(max_batch_tokens=4)
    a, b = played.add(range(20)), played.add(range(20))
    played.step()
    assert b in played.scheduler.waiting
    played.scheduler.pause([a])
    assert played.step() == [b]
    played.scheduler.resume([a])
    c = played.add(range(20))
    played.finish(a, b)
    assert c in played.step()
    earlier = Request(list(range(20)))
    earlier.order = (-1.0, 0)
    assert played.cache.find(earlier) is not None


def test_one_waits_however_slowly_the_other_advances():
    played = Played(max_batch_tokens=8)
    _, b = played.add(range(24)), played.add(range(24))
    for _ in range(50):  # steps that give a nothing to do
        played.scheduler.schedule()
    assert b in played.scheduler.waiting
    played.run(b)
    assert b.n_cached == 20


def test_when_the_first_of_two_that_compute_the_same_leaves_the_other_is_waited_for():
    played = Played(max_batch_tokens=4)
    a, b = played.add(range(24)), played.add(range(24))
    played.step()
    played.scheduler.pause([a])
    played.step()  # b computes the same
    played.finish(a)
    c = played.add(range(24))
    assert played.step() == [b]
    assert c in played.scheduler.waiting
    played.run(c)
    assert c.n_cached == 20


def test_requests_that_computed_the_same_go_on_with_one_block():
    played = Played(max_batch_tokens=32)
    a, b = played.add(range(10)), played.add(range(10))
    played.scheduler.pause([a])  # parked, so b does not wait for it
    played.step()
    played.scheduler.resume([a])
    c = played.add([*range(4), 70, 71])
    played.step()
    assert a.blocks[:2] == b.blocks[:2]
    assert c.blocks[0] == b.blocks[0]
    # Two that compute the same side by side: the younger goes on with the older's blocks.
    played = Played(max_batch_tokens=8)
    a, b = played.add(range(10)), played.add(range(10))
    played.scheduler.prefixes = None  # so that b does not wait
    played.scheduler.schedule()
    played.scheduler.prefixes = played.cache
    while a.n_unread > 1 or b.n_unread > 1:
        played.step()
    played.step()
    assert a.blocks[:2] == b.blocks[:2]


def test_roots_keep_requests_apart():
    played = Played()
    a = played.add(range(10), root=b"one")
    played.run(a)
    played.finish(a)
    b = played.add(range(10), root=b"two")
    played.run(b)
    c = played.add(range(10), root=b"one")
    played.run(c)
    assert (b.n_cached, c.n_cached) == (0, 8)


def test_a_hash_that_two_texts_share_answers_with_neither(monkeypatch):
    class Same:
        def __init__(self, data, digest_size, key):
            pass

        def digest(self):
            return b"the same"

    monkeypatch.setattr("pyroclast.engine.prefix_cache.blake2b", Same)
    played = Played()
    a = played.add(range(13))
    played.run(a)
    b = played.add(range(50, 63))
    played.run(b)
    assert b.n_cached == 0
    c = played.add([*range(4), *range(80, 90)])
    played.run(c)
    assert c.n_cached == 4  # its first block is the one that is kept
    played.finish(a, b, c)


def test_a_prompt_whose_rows_are_wanted_skips_no_row_that_it_must_report():
    played = Played()
    a = played.add(range(10))
    played.run(a)
    played.finish(a)
    b = Request(list(range(10)), wants_prompt_rows=True)
    assert played.cache.find(b) == []
    b.n_rows_done = 9
    assert len(played.cache.find(b)) == 2
    b.n_rows_done = 10
    b.token_ids.append(1)
    assert len(played.cache.find(b)) == 2


def test_the_least_recently_used_leaf_is_evicted_first():
    played = Played(n_blocks=7)
    a = played.add([*range(9)])
    played.run(a)
    b = played.add([*range(50, 59)])
    played.run(b)
    played.finish(a, b)
    assert len(played.cache) == 4
    again = played.add([*range(5)])  # uses a's first block, not its second
    played.run(again)
    assert again.n_cached == 4
    played.finish(again)
    assert played.pool.n_free == 3
    c = played.add(range(20, 20 + 4 * 4))  # needs four blocks and leaves none over
    played.run(c)
    played.finish(c)
    # a's second block was used before b's, and has gone; of b's none.
    assert len(played.cache.find(Request([*range(9)]))) == 1
    assert len(played.cache.find(Request([*range(50, 59)]))) == 2


def test_what_failed_is_dropped_with_all_that_follows():
    played = Played()
    a = played.add(range(10))
    played.run(a)
    b = played.add([*range(10), *a.token_ids[10:], 7, 7, 7, 7])
    played.run(b)
    freed = played.finish(b, spoiled=True)
    assert len(played.cache) == 0
    assert not set(freed) & set(a.blocks)
    played.run(a, n_tokens=9)  # what hung on dropped blocks is not kept
    played.finish(a)
    assert len(played.cache) == 0
    assert played.pool.n_free == 16


def test_blocks_that_are_dropped_are_told_of():
    """They are zeroed: a NaN in them would outlive them."""
    played = Played()
    a = played.add(range(13))
    played.run(a)
    blocks = a.blocks[:3]
    played.finish(a)
    b = played.add(range(6))
    played.run(b)
    freed = played.finish(b, spoiled=True)
    assert set(blocks) <= set(freed)
    assert played.pool.n_free == 16


def test_idle_blocks_are_bounded():
    played = Played(max_idle=1)
    a, b = played.add(range(12)), played.add([*range(8), 9, 9, 9, 9, 9])
    played.run(b)
    assert b.n_cached == 8  # running requests share all they can
    played.finish(a, b)
    assert len(played.cache) == 1
    nothing = Played(max_idle=0)
    a = nothing.add(range(12))
    nothing.run(a)
    nothing.finish(a)
    assert len(nothing.cache) == 0


def test_a_preempted_request_finds_what_it_had_computed():
    played = Played(n_blocks=6)
    a, b = played.add(range(9)), played.add(range(50, 59))
    while not played.scheduler.n_preemptions:
        played.step()
    n_before = played.n_computed
    played.finish(a)
    played.run(b, n_tokens=b.n_prompt)
    # Only what did not fill a block is computed again.
    assert b.n_cached == 0
    assert played.n_computed - n_before < len(b.token_ids)


def test_a_restart_trusts_nothing():
    played = Played()
    a = played.add(range(10))
    played.run(a)
    played.scheduler.restart_all()
    assert len(played.cache) == 0
    played.check()
    played.memory[:] = -1
    played.run(a, n_tokens=4)


def test_a_part_of_a_block_is_copied():
    """The next turn of a conversation computes its new tokens alone."""
    played = Played(parts=True)
    a = played.add(range(10))
    played.run(a, n_tokens=2)
    played.finish(a)
    b = played.add([*a.token_ids[:11], 50, 51])
    played.run(b)
    assert (b.n_cached, played.n_computed) == (11, 11 + 2)
    c = played.add([0, 1, 60, 61])  # from within a full block, and from the first one
    played.run(c)
    assert c.n_cached == 2
    d = played.add(range(6))  # all but the last token, whose logits are needed
    played.run(d)
    assert d.n_cached == 5


def test_a_prompt_that_is_still_read_lends_no_part():
    """Nobody has looked at its logits yet: one of its tokens may have made a NaN."""
    played = Played(parts=True, max_batch_tokens=BLOCK)
    a = played.add(range(5 * BLOCK))
    played.step()
    played.step()
    b = played.add([0, 1, 50])
    played.run(b)
    played.run(a)
    c = played.add([0, 1, 51])
    played.run(c)
    assert (b.n_cached, c.n_cached) == (0, 2)


def test_the_longest_part_is_taken():
    played = Played(parts=True)
    for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 9, 9]):
        one = played.add(ids)
        played.run(one)
        played.finish(one)
    again = played.add([1, 2, 3, 4, 5, 6, 8])
    played.run(again)
    assert again.n_cached == 6


def test_of_one_text_the_longest_part_is_enough():
    """Requests that end anywhere in one text leave no block each."""
    played = Played(parts=True)
    text = list(range(40, 52))
    for n in (6, 5, 7, 2, 10, 9, 3):
        one = played.add(text[:n])
        played.step()
        played.finish(one)
    assert len(played.cache) == 3  # two full blocks, and the part of 10 tokens
    whole = played.add(text)
    played.run(whole)
    assert whole.n_cached == 10


def test_no_part_goes_to_another_root_or_over_a_row_that_is_wanted():
    played = Played(parts=True)
    a = played.add(range(7), root=b"one")
    played.run(a)
    played.finish(a)
    other = played.add(range(7), root=b"two")
    rows = played.add(range(7), root=b"one", wants_prompt_rows=True)
    played.run(rows)
    assert (other.n_cached, rows.n_cached) == (0, 0)


def test_what_a_failure_copied_from_is_dropped_too():
    played = Played(parts=True)
    a = played.add(range(3))
    played.run(a)
    source = a.blocks[0]
    played.finish(a)
    b = played.add([0, 1, 2, 9])
    played.step()
    assert b.n_cached == 3
    assert source in played.finish(b, spoiled=True)
    assert len(played.cache) == 0


def test_a_part_that_was_evicted_for_the_request_itself_is_not_copied():
    played = Played(parts=True, n_blocks=2)
    a = played.add(range(3))
    played.run(a)
    played.finish(a)
    b = played.add([0, 1, 9, 9, 9])  # takes both blocks
    played.run(b)
    assert b.n_cached == 0


@pytest.mark.parametrize("max_idle", [0, None])
def test_who_takes_blocks_of_a_prompt_that_gave_no_logits_finds_them_cleared(max_idle):
    """Free ones and evicted ones may hold a NaN, which nobody has seen yet."""
    played = Played(parts=True, n_blocks=4, max_batch_tokens=6, max_idle=max_idle)
    a = played.add(range(14))
    played.step()
    blocks = set(a.blocks)
    played.finish(a)
    b = played.add(range(50, 65))
    played.run(b)
    assert set(b.blocks) == blocks == played.cleared
    played.finish(b)
    played.cleared.clear()
    c = played.add(range(70, 85))  # b's logits were finite
    played.run(c)
    assert not played.cleared


def test_after_a_restart_begun_blocks_are_cleared_for_whoever_takes_them():
    """What an interrupted step wrote, nobody has seen."""
    played = Played(parts=True, n_blocks=4, max_batch_tokens=6)
    a = played.add(range(14))
    played.step()
    blocks = set(a.blocks)
    played.scheduler.restart_all()
    played.run(a)
    assert blocks <= played.cleared


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_block_is_lost_or_shared_wrongly_whatever_happens(seed, parts):
    """Adds, also of equal prompts at once, drafts, cancels, failures, pauses, preemption and
    restarts at random, in tight pools; 100,000 operations over all seeds."""
    choose = random.Random(seed)
    played = Played(
        n_blocks=choose.choice([5, 9, 24]),
        block_size=(size := 2 * BLOCK if seed % 2 else BLOCK),
        max_batch_tokens=choose.choice([3, 8, 32]),
        max_idle=choose.choice([None, None, 2, 0]),
        parts=parts,
    )
    room = (played.pool.n_blocks - 1) * size
    alive = []
    done = dict.fromkeys(
        ["add", "group", "draft", "cancel", "fail", "restart", "finish", "pause"], 0
    )
    for _ in range(12_500):
        action = choose.random()
        if action < 0.15 and len(alive) < 8:
            stem = choose.choice([[1] * room, [*range(room)], [2, 3] * room])
            n_stem = choose.randrange(room // 2 + 1)
            tail = [choose.randrange(3) for _ in range(choose.randrange(1, room // 4 + 2))]
            rows = choose.random() < 0.1
            root = choose.choice([b"", b"", b"salt"])
            n_equal = choose.choice([1, 1, 4])
            text = [*stem[:n_stem], *tail]
            alive += [played.add(text, root=root, wants_prompt_rows=rows) for _ in range(n_equal)]
            done["group" if n_equal > 1 else "add"] += 1
        elif action < 0.18 and alive:
            played.finish(alive.pop(choose.randrange(len(alive))))
            done["cancel"] += 1
        elif action < 0.19 and alive:
            request = alive.pop(choose.randrange(len(alive)))
            for block in played.finish(request, spoiled=True):
                played.memory[block] = 0
            done["fail"] += 1
        elif action < 0.22 and alive:
            played.scheduler.pause([choose.choice(alive)])
            done["pause"] += 1
        elif action < 0.25 and alive:
            played.scheduler.resume(alive)
        elif action < 0.251:
            played.scheduler.restart_all()
            played.memory[:] = -1
            done["restart"] += 1
        else:
            done["draft"] += played.propose_to_some(choose)
            assert played.step() or not played.scheduler, "all of them wait"
        for request in [r for r in alive if len(r.token_ids) >= min(room, r.n_prompt + 9)]:
            alive.remove(request)
            played.finish(request)
            done["finish"] += 1
    assert all(done.values()), done
    played.finish(*alive)
    played.cache.evict(played.pool.n_blocks)
    assert played.pool.n_free == played.pool.n_blocks


# ---- through LLM ---------------------------------------------------------------------------------


def fake(**options):
    return assemble(FakeModel(max_seqs=4), ByteTokenizer(), "fake", **options)


def test_timings_and_chunks_tell_what_was_cached():
    llm = fake()
    greedy = SamplingParams(temperature=0, max_tokens=6)
    [cold] = llm.generate("the same prompt again", greedy)
    [warm] = llm.generate("the same prompt again", greedy)
    assert (cold.timings.n_cached_tokens, warm.timings.n_cached_tokens) == (0, 21)
    assert (warm.text, warm.token_ids) == (cold.text, cold.token_ids)
    assert next(c.n_cached_tokens for c in llm.stream("the same prompt again", greedy)) == 21


def test_off_shares_only_among_the_completions_of_one_call():
    llm = fake(prefix_cache=False)
    several = SamplingParams(n=3, max_tokens=4, seed=1)
    first = llm.generate("the same prompt again", several)
    assert [c.timings.n_cached_tokens for c in first] == [0, 20, 20]
    second = llm.generate("the same prompt again", several)
    assert [c.timings.n_cached_tokens for c in second] == [0, 20, 20]
    assert [c.text for c in second] == [c.text for c in first]


def test_a_salt_shares_with_the_same_salt_only():
    llm = fake()
    found = [
        llm.generate("the same prompt again", SamplingParams(max_tokens=2, cache_salt=salt))[0]
        for salt in (None, "a", "b", "a", None)
    ]
    assert [c.timings.n_cached_tokens for c in found] == [0, 0, 0, 21, 21]
    for wrong in ("", "\ud800", 5):
        with pytest.raises(SamplingError, match="cache_salt must be None or a text"):
            SamplingParams(cache_salt=wrong)


def test_a_score_reports_every_row_of_a_cached_prompt():
    llm = fake()
    [cold] = llm.score("the same prompt again")
    llm.generate("the same prompt again", SamplingParams(max_tokens=4))
    [warm] = llm.score("the same prompt again")
    assert warm == cold
    [answer] = llm.generate(
        "the same prompt again", SamplingParams(max_tokens=1, prompt_logprobs=0)
    )
    assert answer.prompt_logprobs == cold.logprobs


def test_what_made_a_nan_is_not_answered_from():
    model = FakeModel(max_seqs=4)
    llm = assemble(model, ByteTokenizer(), "fake")
    sound = model.logits_of
    model.logits_of = lambda history: np.full(260, np.nan, np.float32)
    with pytest.raises(Exception, match="NaN"):
        llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    model.logits_of = sound
    [answer] = llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    assert answer.timings.n_cached_tokens == 0


def test_a_failure_of_the_callers_own_leaves_the_cache_as_it_is():
    def fails(token_ids, logits):
        raise ValueError("mine")

    llm = fake()
    llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    with pytest.raises(Exception, match="mine"):
        llm.generate(
            "the same prompt again", SamplingParams(max_tokens=2, logits_processors=[fails])
        )
    [answer] = llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    assert answer.timings.n_cached_tokens == 21
