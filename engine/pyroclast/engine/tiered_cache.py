"""The prefix cache with tiers below it, where pages lie that are not in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.partial_blocks import Part, PartialBlocks
from pyroclast.engine.prefix_states import Node
from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import NO_STATE, StateSlots

if TYPE_CHECKING:
    from pyroclast.engine.pages.writer import Kept

# The arrays of a slot of recurrent layers' states.
SlotArrays = Callable[[int], Sequence[Any]]


class Tier(Protocol):
    """Where pages lie, and states of recurrent layers behind some of them.

    n_read       the pages of cache_dir that were read
    load         as PageIndex.load
    find_states  how many of a text's pages there are, from the first on, and behind how many of
                 them there is a state, the most first
    load_state   reads the state behind all these pages into a slot; whether it was good
    offer        these are in memory, and may be kept
    forget       these shall not be loaded any more, nor the states behind them
    """

    @property
    def n_read(self) -> int: ...
    def find_states(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]]
    ) -> tuple[int, list[int]]: ...
    def load_state(self, root: bytes, pages: Sequence[tuple[bytes, bytes]], slot: int) -> bool: ...
    def load(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]], first: int, blocks: Sequence[int]
    ) -> int: ...
    def offer(self, pages: Iterable[Kept], states: Iterable[Kept]) -> None: ...
    def forget(self, keys: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...


class TieredCache(PartialBlocks):
    """Requests load what the tiers have into blocks of their own, before their first step.  From
    then on it is as if they had computed it."""

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_idle_blocks: int | None = None,
        states: StateSlots | None = None,
        copy: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(pool, block_size, max_idle_blocks, states, copy)
        self.pool = pool
        self.tiers: tuple[Tier, ...] = ()  # replaced, never changed: another thread may read it

    @property
    def n_disk_pages(self) -> int:
        """Pages that came from cache_dir."""
        return sum(tier.n_read for tier in self.tiers)

    def load(self, request: Request, n_shared: int) -> None:
        n_full = request.n_skippable // self._block_size
        if not self.tiers or n_full <= n_shared:
            return
        self._page(request, n_full - 1)
        pages, done = request.pages[:n_full], n_shared
        if self.states is not None:
            done = self._load_with_state(self.states, request, pages, n_shared)
        else:
            for tier in self.tiers:
                done += tier.load(request.root, pages, done, request.blocks)
        if done > n_shared:
            request.n_computed = done * self._block_size
            if self.states is not None:
                self.states.note_border(request)
            self.keep(request)

    def _load_with_state(
        self,
        states: StateSlots,
        request: Request,
        pages: Sequence[tuple[bytes, bytes]],
        n_shared: int,
    ) -> int:
        """Loads the most pages that there is a state behind, and that state; returns how many pages
        the request has then.  Without a state no page is read: it could not go on from there."""
        found: list[tuple[int, Tier]] = []
        for tier in self.tiers:
            n_found, depths = tier.find_states(request.root, pages)
            # Other texts begin like this one: it leaves a state where they go apart.
            request.branch = max(request.branch, n_found * self._block_size)
            found += [(n_pages, tier) for n_pages in depths if n_pages > n_shared]
        for n_pages, tier in sorted(found, key=lambda each: -each[0]):
            slot, beginning = states.take(), pages[:n_pages]
            if tier.load_state(request.root, beginning, slot):
                n_loaded = tier.load(request.root, beginning, n_shared, request.blocks)
                if n_shared + n_loaded == n_pages:
                    states.go_on_from(request, slot)
                    return n_pages
            states.give_back(slot)
        return n_shared

    def state_behind(self, request: Request, n_pages: int, slot_arrays: SlotArrays) -> bytes | None:
        """The state of recurrent layers behind the request's first pages, if it is in the cache;
        None if it was evicted meanwhile.  As with pages: what is there after the copy was there
        all the time."""
        page = request.pages[n_pages - 1]
        for kept in self.kept_states(request):
            if kept.page.key == page[0]:
                found = b"".join(array.tobytes() for array in slot_arrays(kept.block))
                return found if kept.is_there() else None
        return None

    def leave(self, request: Request) -> None:
        super().leave(request)
        for tier in self.tiers:
            tier.offer(self.kept(request), self.kept_states(request))

    def drop(self, request: Request) -> list[int]:
        freed = super().drop(request)
        for tier in self.tiers:
            tier.forget(key for key, _ in request.pages)
        return freed

    def _drop(self, node: Node) -> list[int]:
        dropped = node.subtree()
        freed = super()._drop(node)
        for tier in self.tiers:
            tier.forget(each.key for each in dropped)
        return freed

    def _drop_like(self, part: Part, root: bytes) -> list[int]:
        """Also forgets the source's page where memory has evicted the source itself."""
        if isinstance(part.holder, Node):
            for tier in self.tiers:
                tier.forget([part.holder.key])
        return super()._drop_like(part, root)

    def kept(self, request: Request) -> Iterator[Kept]:
        """The pages of a request's text that are in the cache, from the first on."""
        from pyroclast.engine.pages.record import Page
        from pyroclast.engine.pages.writer import Kept

        for node in self._kept_nodes(request):
            page = Page(node.root, _parent(node), node.key, node.ids)
            yield Kept(page, node.block, partial(_is_there, self._nodes, node))

    def kept_states(self, request: Request) -> Iterator[Kept]:
        """The states behind such pages that are in the cache."""
        from pyroclast.engine.pages.record import Page, TextDigest
        from pyroclast.engine.pages.writer import Kept

        text = TextDigest()
        for node in self._kept_nodes(request):
            text.add(node.ids)
            n_states, slot = node.n_states, node.state
            if slot != NO_STATE:
                page = Page(node.root, _parent(node), node.key, text.digest())
                yield Kept(page, slot, partial(_has_state, self._nodes, node, n_states))

    def _kept_nodes(self, request: Request) -> Iterator[Node]:
        nodes = self._nodes
        for key, ids in request.pages:
            node = nodes.get(key)
            if node is None or node.ids != ids or node.root != request.root:
                return  # not there, or another text with the same hash
            yield node

    def close(self) -> None:
        """Lets the tiers finish."""
        for tier in self.tiers:
            tier.close()


def _parent(node: Node) -> bytes:
    return b"" if node.parent is None else node.parent.key


def _is_there(nodes: Mapping[bytes, Node], node: Node) -> bool:
    return nodes.get(node.key) is node


def _has_state(nodes: Mapping[bytes, Node], node: Node, n_states: int) -> bool:
    """Whether the node still has the state that was its n_states-th.  It may have lost that one
    meanwhile and got another, even in the same slot; the count changes before the slot does."""
    has_one = nodes.get(node.key) is node and node.state != NO_STATE
    return has_one and node.n_states == n_states
