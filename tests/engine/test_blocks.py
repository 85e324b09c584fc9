import pytest

from pyroclast.engine.blocks import BlockPool
from pyroclast.errors import MemoryBudgetError


def test_hands_out_every_block_once():
    pool = BlockPool(8)
    assert sorted(pool.take(3) + pool.take(5)) == list(range(8))
    assert pool.n_free == 0
    assert not pool.has_room(1)
    assert pool.has_room(0)


def test_the_last_block_given_back_is_taken_first():
    pool = BlockPool(8)
    blocks = pool.take(4)
    pool.give_back(blocks[:1])
    assert pool.take(1) == blocks[:1]


def test_a_shared_block_is_free_only_after_its_last_owner():
    pool = BlockPool(4)
    [block] = pool.take(1)
    pool.share([block])
    assert pool.give_back([block]) == []
    assert pool.n_free == 3
    assert pool.give_back([block]) == [block]
    assert pool.n_free == 4


def test_reset_frees_everything():
    pool = BlockPool(4)
    pool.share(pool.take(4))
    pool.reset()
    assert sorted(pool.take(4)) == [0, 1, 2, 3]


def test_misuse_is_caught():
    pool = BlockPool(2)
    with pytest.raises(AssertionError):
        pool.take(3)
    with pytest.raises(AssertionError):
        pool.give_back([0])
    with pytest.raises(AssertionError):
        pool.share([0])


def test_an_empty_cache_is_an_error():
    with pytest.raises(MemoryBudgetError, match="at least one block, got 0"):
        BlockPool(0)
