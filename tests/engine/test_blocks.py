import gc
import random
from collections import Counter

import pytest

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.request import Request
from pyroclast.engine.scheduler import Scheduler
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


# ---- keepers -------------------------------------------------------------------------------


class LeastRecentlyHeld:
    """A keeper as a prefix cache would be: it evicts what it has held for longest."""

    def __init__(self, pool, name, needed=False):
        self.name, self.pool = name, pool
        self.order = []  # the oldest first
        self.asked = []
        pool.register(self, needed=needed)

    def hold(self, blocks):
        self.pool.hold(self, blocks)
        self.order += blocks

    def evict(self, n_blocks):
        self.asked.append(n_blocks)
        victims = [block for block in self.order if self.pool.is_evictable(block)][:n_blocks]
        self.order = [block for block in self.order if block not in victims]
        self.pool.release(self, victims)

    def forget(self):
        self.order = []


def test_a_kept_block_outlives_the_request_and_can_be_shared():
    pool = BlockPool(4)
    keeper = LeastRecentlyHeld(pool, "prefixes")
    blocks = pool.take(2)
    keeper.hold(blocks)
    assert pool.n_evictable == 0
    assert pool.give_back(blocks) == []
    assert (pool.n_free, pool.n_evictable) == (2, 2)
    pool.share(blocks[:1])  # a later request
    assert (pool.n_free, pool.n_evictable) == (2, 1)
    assert pool.release(keeper, blocks) == blocks[1:]
    assert pool.give_back(blocks[:1]) == blocks[:1]
    assert (pool.n_free, pool.n_evictable) == (4, 0)


def test_take_evicts_what_is_missing_the_least_recently_used_first():
    pool = BlockPool(6)
    first, second = LeastRecentlyHeld(pool, "first"), LeastRecentlyHeld(pool, "second")
    a, b = pool.take(2), pool.take(3)
    first.hold(a)
    second.hold(b)
    pool.give_back(a + b)
    pool.touch(first)
    assert pool.has_room(6) and not pool.has_room(7)
    assert len(pool.take(3)) == 3
    assert (second.asked, first.asked) == ([2], [])
    assert pool.held(second) == {b[2]} and pool.held(first) == set(a)
    assert sorted(pool.take(3)) == sorted([b[2], *a])
    assert (second.asked, first.asked) == ([2, 3], [2])


def test_a_needed_keeper_evicts_after_the_others_and_can_leave():
    pool = BlockPool(5)
    needed, other = LeastRecentlyHeld(pool, "needed", needed=True), LeastRecentlyHeld(pool, "other")
    a, b = pool.take(2), pool.take(3)
    needed.hold(a)
    other.hold(b)  # used last, and yet asked first
    pool.give_back(a + b)
    pool.take(4)
    assert (other.asked, needed.asked) == ([4], [1])
    assert pool.unregister(needed) == [a[1]]
    assert pool.has_room(1) and not pool.has_room(2)
    pool.reset()  # tells only those that are still there
    assert needed.order == [a[1]] and other.order == []


def test_shared_and_doubly_kept_blocks_are_not_evicted():
    pool = BlockPool(3)
    first, second = LeastRecentlyHeld(pool, "first"), LeastRecentlyHeld(pool, "second")
    blocks = pool.take(3)
    first.hold(blocks)
    second.hold(blocks[:1])
    pool.give_back(blocks[:2])
    assert pool.n_evictable == 1  # the second: of the others one is kept twice, one is in use
    assert pool.take(1) == blocks[1:2]
    with pytest.raises(AssertionError):
        pool.take(1)


def test_a_reset_tells_keepers():
    pool = BlockPool(3)
    keeper = LeastRecentlyHeld(pool, "prefixes")
    keeper.hold(pool.take(2))
    pool.reset()
    assert (keeper.order, pool.held(keeper), pool.n_free) == ([], frozenset(), 3)


def test_misuse_of_keepers_is_caught():
    pool = BlockPool(3)
    keeper = LeastRecentlyHeld(pool, "prefixes")
    with pytest.raises(AssertionError, match="free block"):
        keeper.hold([0])
    blocks = pool.take(1)
    keeper.hold(blocks)
    with pytest.raises(AssertionError, match="prefixes holds block"):
        keeper.hold(blocks)
    pool.give_back(blocks)
    with pytest.raises(AssertionError, match="twice"):
        pool.give_back(blocks)
    with pytest.raises(AssertionError, match="prefixes is registered"):
        pool.register(keeper)


def test_a_request_takes_blocks_from_a_keeper_before_anybody_is_preempted():
    pool = BlockPool(4)
    scheduler = Scheduler(pool, block_size=4, max_batch_tokens=16, max_seqs=2, max_logits=2)
    keeper = LeastRecentlyHeld(pool, "prefixes")
    blocks = pool.take(3)
    keeper.hold(blocks)
    pool.give_back(blocks)
    request = Request(list(range(7)))
    scheduler.add(request)
    assert scheduler.schedule() == [request]
    assert keeper.asked == [1]
    assert len(request.blocks) == 2


class Model:
    """What the pool should know, as lists of owners."""

    def __init__(self, n_blocks):
        self.owners = {block: [] for block in range(n_blocks)}

    def add(self, owner, blocks):
        for block in blocks:
            self.owners[block].append(owner)

    def drop(self, owner, blocks):
        for block in blocks:
            self.owners[block].remove(owner)

    def free(self):
        return {block for block, owners in self.owners.items() if not owners}

    def of(self, owner):
        return [block for block, owners in self.owners.items() if owner in owners]


class Play:
    """Random operations on a pool and on its model, requests being ints."""

    def __init__(self, seed, n_blocks):
        self.rng = random.Random(seed)
        self.pool, self.model = BlockPool(n_blocks), Model(n_blocks)
        self.keepers = [LeastRecentlyHeld(self.pool, name) for name in ("a", "b")]
        self.requests, self.n_made = [], 0
        self.done = Counter()

    def some(self, items):
        return self.rng.sample(items, self.rng.randint(0, len(items)))

    def take(self):
        n_blocks = self.rng.randint(0, 6)
        evictable = [b for b, o in self.model.owners.items() if len(o) == 1 and o[0] in "ab"]
        assert self.pool.n_evictable == len(evictable)
        fits = n_blocks <= len(self.model.free()) + len(evictable)
        assert self.pool.has_room(n_blocks) == fits
        if not fits:
            return
        if n_blocks > self.pool.n_free:
            self.done["evict"] += 1
        before = {keeper.name: self.pool.held(keeper) for keeper in self.keepers}
        blocks = self.pool.take(n_blocks)
        for keeper in self.keepers:
            gone = before[keeper.name] - self.pool.held(keeper)
            assert gone <= set(evictable)
            self.model.drop(keeper.name, gone)
        assert set(blocks) <= self.model.free()
        self.n_made += 1
        self.requests.append(str(self.n_made))
        self.model.add(self.requests[-1], blocks)

    def share(self):
        taken = [block for block, owners in self.model.owners.items() if owners]
        blocks = self.some(taken)[:6]
        self.pool.share(blocks)
        self.n_made += 1
        self.requests.append(str(self.n_made))
        self.model.add(self.requests[-1], blocks)

    def give_back(self):
        if not self.requests:
            return
        request = self.requests.pop(self.rng.randrange(len(self.requests)))
        blocks, free = self.model.of(request), self.model.free()
        self.model.drop(request, blocks)
        assert set(self.pool.give_back(blocks)) == self.model.free() - free

    def hold(self):
        keeper = self.rng.choice(self.keepers)
        taken = [b for b, o in self.model.owners.items() if o and keeper.name not in o]
        blocks = self.some(taken)[:4]
        keeper.hold(blocks)
        self.model.add(keeper.name, blocks)

    def release(self):
        keeper = self.rng.choice(self.keepers)
        blocks, free = self.some(self.model.of(keeper.name))[:4], self.model.free()
        keeper.order = [block for block in keeper.order if block not in blocks]
        self.model.drop(keeper.name, blocks)
        assert set(self.pool.release(keeper, blocks)) == self.model.free() - free

    def reset(self):
        self.pool.reset()
        self.requests.clear()
        self.model = Model(self.pool.n_blocks)

    def step(self):
        names = ["take", "share", "give_back", "hold", "release", "reset"]
        [name] = self.rng.choices(names, [30, 10, 34, 12, 12, 0.2])
        getattr(self, name)()
        self.done[name] += 1

    def check(self):
        assert self.pool.n_free == len(self.model.free())
        for keeper in self.keepers:
            assert self.pool.held(keeper) == set(self.model.of(keeper.name)) == set(keeper.order)


@pytest.mark.parametrize("n_blocks", [1, 7, 24])
def test_random_operations_agree_with_lists_of_owners(n_blocks):
    play = Play(n_blocks, n_blocks)
    for _ in range(10_000):
        play.step()
        play.check()
    assert min(play.done.values()) > 5 and play.done["evict"] > 20
    # No block was lost: all can be taken once everybody has let go.
    for request in play.requests:
        play.pool.give_back(play.model.of(request))
    for keeper in play.keepers:
        play.pool.release(keeper, play.pool.held(keeper))
    assert sorted(play.pool.take(n_blocks)) == list(range(n_blocks))


def test_a_finalizer_of_a_collected_circle_still_finds_what_is_held():
    """Python clears all weak references into a circle before it runs finalizers."""
    pool, told = BlockPool(4), []

    class Ends(LeastRecentlyHeld):
        def __del__(self):
            told.append(pool.release(self, list(pool.held(self))))

    keeper = Ends(pool, "circle")
    keeper.me = keeper
    blocks = pool.take(2)
    keeper.hold(blocks)
    pool.give_back(blocks)
    del keeper
    gc.collect()
    assert [sorted(each) for each in told] == [sorted(blocks)]


def test_a_keeper_dropped_without_a_word_loses_its_blocks():
    """As after Ctrl-C in the middle of a look; and its number may be another keeper's later."""
    pool, living = BlockPool(4), None
    for _ in range(100):
        dead = LeastRecentlyHeld(pool, "dead")
        dead.hold(blocks := pool.take(3))
        pool.give_back(blocks)
        del dead
        assert sorted(pool.take(4)) == list(range(4))
        pool.give_back(range(4))
    living = LeastRecentlyHeld(pool, "living")
    living.hold(blocks := pool.take(4))
    assert pool.held(living) == frozenset(blocks)


def test_reset_tells_every_keeper_whatever_an_interruption_left():
    pool, forgotten = BlockPool(4), []

    class Told(LeastRecentlyHeld):
        def forget(self):
            forgotten.append(self.name)

    keepers = [Told(pool, name) for name in "ab"]
    keepers[0].hold(pool.take(2))
    pool._held.pop(id(keepers[0]))
    pool.reset()
    assert forgotten == ["a", "b"] and pool.n_free == 4
    keepers[0].hold(pool.take(2))
    assert len(pool.held(keepers[0])) == 2
