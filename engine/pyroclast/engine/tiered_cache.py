"""The prefix cache with tiers below it, where pages lie that are not in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.pages.record import Page
from pyroclast.engine.pages.writer import Kept
from pyroclast.engine.prefix_cache import PrefixCache
from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import NO_STATE, StateSlots

# The arrays of a slot of recurrent layers' states.
SlotArrays = Callable[[int], Sequence[Any]]


class Tier(Protocol):
    """Where pages lie.  state: (number of pages, the state of recurrent layers behind them), if
    there is one.  n_read: the pages of cache_dir that were read.  load: as PageIndex.load.
    offer: these are in memory, and may be kept.  forget: these shall not be loaded any more."""

    @property
    def n_read(self) -> int: ...
    @property
    def state(self) -> tuple[int, bytes] | None: ...
    def load(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]], first: int, blocks: Sequence[int]
    ) -> int: ...
    def offer(self, pages: Iterable[Kept]) -> None: ...
    def forget(self, keys: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...


class TieredCache(PrefixCache):
    """Requests load what the tiers have into blocks of their own, before their first step.  From
    then on it is as if they had computed it."""

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_idle_blocks: int | None = None,
        states: StateSlots | None = None,
        slot_arrays: SlotArrays = lambda _: [],
    ) -> None:
        super().__init__(pool, block_size, max_idle_blocks, states)
        self.pool, self._slot_arrays = pool, slot_arrays
        self.tiers: tuple[Tier, ...] = ()  # replaced, never changed: another thread may read it

    @property
    def n_disk_pages(self) -> int:
        """Pages that came from cache_dir."""
        return sum(tier.n_read for tier in self.tiers)

    def admit(self, request: Request, n_shared: int) -> None:
        super().admit(request, n_shared)
        n_full = request.n_skippable // self._block_size
        if not self.tiers or n_full <= n_shared:
            return
        if self.states is not None:
            self._load_state(self.states, request, n_shared)
            return
        self._page(request, n_full - 1)
        done = n_shared
        for tier in self.tiers:
            done += tier.load(request.root, request.pages[:n_full], done, request.blocks)
        if done > n_shared:
            request.n_computed = done * self._block_size
            self.keep(request)

    def _load_state(self, states: StateSlots, request: Request, n_shared: int) -> None:
        """Loads the pages of a saved state, if the request begins with all of them: it has the
        state behind the last one only."""
        for tier in self.tiers:
            n_pages, raw = tier.state or (0, b"")
            if n_pages <= n_shared or n_pages > request.n_skippable // self._block_size:
                continue
            self._page(request, n_pages - 1)
            pages = request.pages[:n_pages]
            if n_shared + tier.load(request.root, pages, n_shared, request.blocks) < n_pages:
                continue
            states.go_on_from(request, states.take())
            fill(self._slot_arrays(request.state), raw)
            request.n_computed = n_pages * self._block_size
            states.note_border(request)
            self.keep(request)
            return

    def state_behind(self, request: Request, n_pages: int) -> bytes | None:
        """The state of recurrent layers behind the request's first pages, if it is in the cache;
        None if it was evicted meanwhile.  As with pages: what is there after the copy was there
        all the time."""
        key = request.pages[n_pages - 1][0]
        node = self._nodes.get(key)
        if node is None or (slot := node.state) == NO_STATE:
            return None
        found = b"".join(array.tobytes() for array in self._slot_arrays(slot))
        return found if self._nodes.get(key) is node and node.state == slot else None

    def leave(self, request: Request) -> None:
        super().leave(request)
        for tier in self.tiers:
            tier.offer(self.kept(request))

    def drop(self, request: Request) -> list[int]:
        for tier in self.tiers:
            tier.forget(key for key, _ in request.pages)
        return super().drop(request)

    def kept(self, request: Request) -> Iterator[Kept]:
        """The pages of a request's text that are in the cache, from the first on."""
        nodes = self._nodes
        for key, ids in request.pages:
            node = nodes.get(key)
            if node is None or node.ids != ids or node.root != request.root:
                return  # not there, or another text with the same hash
            parent = b"" if node.parent is None else node.parent.key
            page = Page(node.root, parent, key, node.ids)
            yield Kept(page, node.block, partial(_is_there, nodes, key, node))

    def close(self) -> None:
        """Lets the tiers finish."""
        for tier in self.tiers:
            tier.close()


def fill(arrays: Sequence[Any], raw: bytes) -> None:
    """Writes the bytes into the arrays, one after the other."""
    start = 0
    for array in arrays:
        end = start + array.nbytes
        array.reshape(-1).view("u1")[:] = memoryview(raw)[start:end]
        start = end


def _is_there(nodes: Mapping[bytes, object], key: bytes, node: object) -> bool:
    return nodes.get(key) is node
