"""Who owns which block of the KV cache: plain ints, no arrays.

A block holds the keys and values of `block_size` adjacent tokens in every layer.  The pool hands
out block numbers and counts their owners; it never touches the cache itself.

Requests own blocks while they run.  A keeper (the prefix cache) owns blocks for longer, so that a
later request can share them.  Where free blocks do not suffice, the pool asks keepers to release
what nobody else owns, beginning with the keeper that was least recently used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from weakref import ref

from pyroclast.errors import MemoryBudgetError


class Keeper(Protocol):
    """An owner of blocks that outlives requests.

    `evict(n_blocks)` releases at least that many blocks that nobody else owns, or all it has of
    these.  `forget()` tells that the pool was reset: the keeper owns nothing any more."""

    @property
    def name(self) -> str: ...
    def evict(self, n_blocks: int, /) -> None: ...
    def forget(self) -> None: ...


class BlockPool:
    """The free blocks among `n_blocks`, and how many owners each taken block has.

    The last block given back is the first one taken again: it is still warm in the caches.
    """

    __slots__ = (
        "_clear",
        "_free",
        "_held",
        "_keepers",
        "_n_keepers",
        "_n_owners",
        "_needed",
        "_soiled",
        "n_blocks",
        "n_evictable",
    )

    def __init__(self, n_blocks: int, clear: Callable[[Sequence[int]], None] | None = None) -> None:
        """clear: zeroes blocks."""
        if n_blocks < 1:
            raise MemoryBudgetError(f"the KV cache needs at least one block, got {n_blocks}")
        self.n_blocks = n_blocks
        self._clear, self._soiled = clear, set[int]()
        # What each keeper owns, by the keeper's id; the least recently used comes first.
        self._held: OrderedDict[int, set[int]] = OrderedDict()
        self._needed: set[int] = set()  # keepers that evict after all others
        # Weak: a keeper knows its pool, and a circle would hold a dropped model until Python looks
        # for circles.  By id, too: in a finalizer that a collection runs, a weak key is dead.
        self._keepers: dict[int, ref[Keeper]] = {}
        self.reset()

    def reset(self) -> None:
        """Every block is free again, whoever owned it."""
        self._free = list(range(self.n_blocks - 1, -1, -1))
        self._n_owners = [0] * self.n_blocks  # requests and keepers
        self._n_keepers = [0] * self.n_blocks
        self.n_evictable = 0  # blocks whose one owner is a keeper
        living = [keeper for each in self._keepers.values() if (keeper := each()) is not None]
        self._keepers = {id(keeper): ref(keeper) for keeper in living}
        self._held = OrderedDict((id(keeper), set[int]()) for keeper in living)
        self._needed.intersection_update(self._keepers)
        for keeper in living:
            keeper.forget()

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def n_available(self) -> int:
        """How many blocks `take` can give, evicting all that can be."""
        return len(self._free) + self.n_evictable

    def has_room(self, n_blocks: int) -> bool:
        """Whether `take` can give so many, evicting blocks if need be."""
        return n_blocks <= self.n_available

    def take(self, n_blocks: int) -> list[int]:
        """`n_blocks` blocks, each with one owner.  Ask `has_room` first."""
        assert n_blocks >= 0
        if n_blocks > len(self._free):
            self._evict(n_blocks)
        assert n_blocks <= len(self._free), "take() without has_room(), or a keeper kept too much"
        blocks = [self._free.pop() for _ in range(n_blocks)]
        for block in blocks:
            self._n_owners[block] = 1
        if self._clear is not None and (soiled := self._soiled.intersection(blocks)):
            self._clear(sorted(soiled))
            self._soiled -= soiled
        return blocks

    def soil(self, blocks: Iterable[int]) -> None:
        """These may hold a NaN.  Who takes one finds it cleared: kernels multiply cells behind a
        text by zero."""
        self._soiled.update(blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Adds an owner to each of `blocks`, which must be taken."""
        for block in blocks:
            assert self._n_owners[block] > 0, "a free block cannot be shared"
            self._count(block, owners=1)

    def give_back(self, blocks: Iterable[int]) -> list[int]:
        """Takes one owner from each of `blocks`; returns those that nobody owns any more."""
        freed = []
        for block in blocks:
            assert self._n_owners[block] > self._n_keepers[block], "block given back twice"
            self._count(block, owners=-1)
            if self._n_owners[block] == 0:
                self._free.append(block)
                freed.append(block)
        return freed

    # ---- owners that outlive requests ------------------------------------------------------

    def register(self, keeper: Keeper, *, needed: bool = False) -> None:
        """From now on `keeper` can hold blocks, and is asked to evict some.  needed: after the
        others, because somebody waits for what it computes in them."""
        self._bury_dead()
        assert id(keeper) not in self._held, f"{keeper.name} is registered already"
        self._keepers[id(keeper)], self._held[id(keeper)] = ref(keeper), set()
        if needed:
            self._needed.add(id(keeper))

    def unregister(self, keeper: Keeper) -> list[int]:
        """`keeper` owns nothing any more, and is asked for nothing; returns the blocks that nobody
        owns any more."""
        return self._unregister(id(keeper)) if id(keeper) in self._held else []

    def touch(self, keeper: Keeper) -> None:
        """`keeper` was used: all others are asked to evict before it."""
        self._held.move_to_end(id(keeper))  # in one piece: Ctrl-C cannot lose it

    def held(self, keeper: Keeper) -> frozenset[int]:
        """The blocks that `keeper` owns."""
        return frozenset(self._held.get(id(keeper), ()))

    def is_evictable(self, block: int) -> bool:
        """Whether a keeper owns the block, and nobody else."""
        return self._n_owners[block] == self._n_keepers[block] == 1

    def hold(self, keeper: Keeper, blocks: Iterable[int]) -> None:
        """Makes `keeper` an owner of each of `blocks`, which must be taken."""
        held = self._held[id(keeper)]
        for block in blocks:
            assert self._n_owners[block] > 0, "a free block cannot be held"
            assert block not in held, f"{keeper.name} holds block {block} already"
            held.add(block)
            self._count(block, owners=1, keepers=1)
        self.touch(keeper)

    def release(self, keeper: Keeper, blocks: Iterable[int]) -> list[int]:
        """`keeper` owns `blocks` no more; returns those that nobody owns any more."""
        return self._release(self._held[id(keeper)], blocks)

    def _release(self, held: set[int], blocks: Iterable[int]) -> list[int]:
        freed = []
        for block in blocks:
            held.remove(block)
            self._count(block, owners=-1, keepers=-1)
            if self._n_owners[block] == 0:
                self._free.append(block)
                freed.append(block)
        return freed

    def _unregister(self, key: int) -> list[int]:
        held = self._held[key]
        freed = self._release(held, list(held))
        del self._held[key], self._keepers[key]
        self._needed.discard(key)
        return freed

    def _bury_dead(self) -> None:
        """Takes back what keepers own that were dropped without `unregister`, as after Ctrl-C."""
        for key, keeper in list(self._keepers.items()):
            if keeper() is None:
                self._unregister(key)

    def _evict(self, n_blocks: int) -> None:
        """Asks keepers to release blocks until `n_blocks` are free."""
        self._bury_dead()
        for key in sorted(self._held, key=self._needed.__contains__):
            keeper = self._keepers[key]()
            if keeper is not None and n_blocks > len(self._free):
                keeper.evict(n_blocks - len(self._free))

    def _count(self, block: int, *, owners: int, keepers: int = 0) -> None:
        self.n_evictable -= self.is_evictable(block)
        self._n_owners[block] += owners
        self._n_keepers[block] += keepers
        self.n_evictable += self.is_evictable(block)
