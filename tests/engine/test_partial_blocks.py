"""Parts of blocks are copied, and blocks that may hold a NaN are cleared for whoever takes them."""

import pytest

from played import BLOCK, Played


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


def test_a_failure_drops_what_it_copied_from_and_no_other_text_with_a_token_in_common():
    """Texts that begin like each other, as with BOS, are many."""
    played = Played(parts=True)
    for ids in ([1, 5, 6], [1, 7, 8]):
        one = played.add(ids)
        played.run(one)
        played.finish(one)
    failed = played.add([1, 9, 9])
    played.run(failed)
    assert failed.n_cached == 1
    played.finish(failed, spoiled=True)
    found = {}
    for ids in ([1, 7, 8, 70], [1, 5, 6, 70]):
        again = played.add(ids)
        played.run(again)
        found[tuple(ids[:3])] = again.n_cached
        played.finish(again)
    assert found == {(1, 7, 8): 1, (1, 5, 6): 3}


def test_no_part_is_kept_behind_a_block_that_was_dropped():
    """The text before it is in the cache again, computed by another request."""
    played = Played(parts=True)
    first = played.add(range(10))
    played.run(first)
    played.scheduler.pause([first])
    failed = played.add([*range(2 * BLOCK), 50])
    played.run(failed)
    assert failed.n_cached == 2 * BLOCK
    played.finish(failed, spoiled=True)
    again = played.add([*range(2 * BLOCK), 60])
    played.run(again, n_tokens=2)  # with the second step its blocks are in the cache
    assert again.n_cached == 0
    played.finish(first)
    third = played.add([*first.token_ids[:10], 70])
    played.run(third)
    assert third.n_cached == 2 * BLOCK
