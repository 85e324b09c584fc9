"""The prefix cache: what it shares, what it keeps, and that no bit depends on it."""

import random

import pytest

from played import BLOCK, Played
from pyroclast.engine.request import Request


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
