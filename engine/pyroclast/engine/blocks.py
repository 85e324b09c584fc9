"""Who owns which block of the KV cache: plain ints, no arrays.

A block holds the keys and values of `block_size` adjacent tokens in every layer.  The pool hands
out block numbers and counts their owners; it never touches the cache itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyroclast.errors import MemoryBudgetError


class BlockPool:
    """The free blocks among `n_blocks`, and how many owners each taken block has.

    The last block given back is the first one taken again: it is still warm in the caches.
    """

    __slots__ = ("_free", "_n_owners", "n_blocks")

    def __init__(self, n_blocks: int) -> None:
        if n_blocks < 1:
            raise MemoryBudgetError(f"the KV cache needs at least one block, got {n_blocks}")
        self.n_blocks = n_blocks
        self._free = list(range(n_blocks - 1, -1, -1))
        self._n_owners = [0] * n_blocks

    @property
    def n_free(self) -> int:
        return len(self._free)

    def has_room(self, n_blocks: int) -> bool:
        return n_blocks <= len(self._free)

    def take(self, n_blocks: int) -> list[int]:
        """`n_blocks` free blocks, each with one owner.  Ask `has_room` first."""
        assert 0 <= n_blocks <= len(self._free), "take() without has_room()"
        blocks = [self._free.pop() for _ in range(n_blocks)]
        for block in blocks:
            self._n_owners[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Adds an owner to each of `blocks`, which must be taken."""
        for block in blocks:
            assert self._n_owners[block] > 0, "a free block cannot be shared"
            self._n_owners[block] += 1

    def give_back(self, blocks: Iterable[int]) -> list[int]:
        """Takes one owner from each of `blocks`; returns those that nobody owns any more."""
        freed = []
        for block in blocks:
            assert self._n_owners[block] > 0, "block given back twice"
            self._n_owners[block] -= 1
            if self._n_owners[block] == 0:
                self._free.append(block)
                freed.append(block)
        return freed

    def reset(self) -> None:
        """Every block is free again, whoever owned it."""
        self._free = list(range(self.n_blocks - 1, -1, -1))
        self._n_owners = [0] * self.n_blocks
