"""Blocks of finished work that later requests share: the prefix cache.

A full block is known by a chained hash: of the block before it, and of its own token ids.  The
chain begins with the request's `root`, so requests with different roots share nothing.  A hash only
finds a block; the ids and the block before it are compared, so two texts with one hash stay apart.
A token's bits depend on nothing but its context, so a block from the cache holds the bits that
computing it again would give.

While a request computes its prompt, later ones that need the same blocks wait for them instead of
computing them as well.

Whoever owns a block owns the blocks before it too.  So idle blocks, which only the cache owns, can
always be evicted, leaves first, the least recently used first.  Kwon et al. 2023 (PagedAttention)
share blocks this way.
"""

from __future__ import annotations

from array import array
from functools import partial
from hashlib import blake2b
from heapq import heapify, heappop, heappush

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.prefix_states import Node, NodeStates
from pyroclast.engine.request import Request
from pyroclast.engine.roots import N_HASH_BYTES
from pyroclast.engine.state_slots import NO_STATE, StateSlots

STOPPED = 1 << 62  # n_kept of a request whose blocks are kept no more


class PrefixCache:
    """A keeper of `pool` (see `blocks.Keeper`).  max_idle_blocks: how many blocks that no request
    owns it keeps; None: as many as there is room for."""

    name = "prefix cache"

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_idle_blocks: int | None = None,
        states: StateSlots | None = None,
    ) -> None:
        self._pool, self._block_size = pool, block_size
        self._max_idle = pool.n_blocks if max_idle_blocks is None else max_idle_blocks
        self._nodes: dict[bytes, Node] = {}
        # The request that computes a block next; one block for each request.
        self._coming: dict[bytes, Request] = {}
        # Leaves by their last use; an entry is out of date if its node was used again or is none.
        self._leaves: list[tuple[int, bytes]] = []
        self._now = 0
        self.states = states
        self._kept_states = None if states is None else NodeStates(states)
        pool.register(self)

    def __len__(self) -> int:
        return len(self._nodes)

    # ---- what the scheduler asks ---------------------------------------------------------------

    def find(self, request: Request) -> list[int] | None:
        """The blocks that `request` can take over, from its first token on; None if it should wait
        for more of them.  At least one token is left to compute: its logits are needed."""
        n_blocks = request.n_skippable // self._block_size
        node, n_found = self._deepest(request, n_blocks)
        if n_found < n_blocks and self._is_coming(request, self._page(request, n_found)[0]):
            request.found = None if node is None else (node, n_found)
            return None
        if self._kept_states is not None:
            request.branch = n_found * self._block_size
            node = self._kept_states.deepest(node)
        path: list[Node] = []
        while node is not None:
            path.append(node)
            node = node.parent
        path.reverse()
        self._use(path)
        return [each.block for each in path]

    def admit(self, request: Request, n_shared: int) -> None:
        """`request` has its blocks, of which the first `n_shared` are from the cache; it computes
        the others."""
        request.n_kept, request.found = n_shared, None
        self._announce(request)

    def keep(self, request: Request, *, leaves: bool = False) -> None:
        """Takes in the blocks that `request` has filled.  Where the cache has got an equal one from
        another request meanwhile, `request` goes on with that one, unless it `leaves`."""
        n_full = request.n_computed // self._block_size
        # Who leaves is asked again whether what comes before was dropped: its last part follows.
        is_news = n_full > request.n_kept or (leaves and n_full == request.n_kept)
        if is_news and not self._take_in(request, n_full, leaves=leaves):
            request.n_kept = STOPPED
        if self._kept_states is not None and request.snapshots:
            self._kept_states.take(request, partial(self._node_of, request))
        if not leaves:
            self._announce(request)

    def leave(self, request: Request) -> None:
        """`request` is about to lose its blocks: keeps those that it has filled."""
        self.keep(request, leaves=True)
        self._withdraw(request)

    def drop(self, request: Request) -> list[int]:
        """Forgets everything that `request` has read or filled, and what follows it; returns the
        blocks that nobody owns any more."""
        request.n_kept = STOPPED
        self._withdraw(request)
        freed: list[int] = []
        for key, _ in request.pages:
            node = self._nodes.get(key)
            if node is not None:
                freed += self._drop(node)
        return freed

    def trim(self) -> None:
        """Evicts until no more blocks are idle than may be."""
        n_idle = self._pool.n_evictable
        if n_idle > self._max_idle:
            self.evict(n_idle - self._max_idle)

    # ---- what the pool asks --------------------------------------------------------------------

    def evict(self, n_blocks: int) -> None:
        """Releases that many blocks, or all that are idle."""
        in_use = []
        while n_blocks > 0 and self._leaves:
            entry = heappop(self._leaves)
            node = self._nodes.get(entry[1])
            if node is None or node.children or node.used != entry[0]:
                continue
            if not self._pool.is_evictable(node.block):
                in_use.append(entry)
                continue
            self._remove(node)
            n_blocks -= 1
        for entry in in_use:
            heappush(self._leaves, entry)

    def forget(self) -> None:
        """The pool was reset."""
        self._nodes.clear()
        if self._kept_states is not None:
            self._kept_states.forget()
        self._coming.clear()
        self._leaves.clear()

    # ---- states of recurrent layers ------------------------------------------------------------

    def state_at(self, request: Request, n_blocks: int) -> int:
        """The slot with the state behind the first blocks of a request that `find` has found."""
        return self._nodes[self._page(request, n_blocks - 1)[0]].state if n_blocks else NO_STATE

    def _node_of(self, request: Request, n_tokens: int) -> Node | None:
        """The node that ends with so many tokens of the request, if the cache has it.  A request
        that leaves at once may have computed a block that the cache has got from another one."""
        i = n_tokens // self._block_size - 1
        if i >= request.n_kept or request.n_kept == STOPPED:
            return None
        return self._node_at(request, i) or self._node_behind(request, i + 1)

    def _node_behind(self, request: Request, n_blocks: int) -> Node | None:
        """The last of the first n_blocks of the request's text, whoever computed it."""
        node: Node | None = None
        for i in range(n_blocks):
            node = self._node(*self._page(request, i), request.root, node)
            if node is None:
                return None
        return node

    # ---- inside --------------------------------------------------------------------------------

    def _page(self, request: Request, i: int) -> tuple[bytes, bytes]:
        """The key and the ids of the i-th block of the request's text."""
        pages, size = request.pages, self._block_size
        for j in range(len(pages), i + 1):
            before = pages[-1][0] if pages else request.root
            ids = array("i", request.token_ids[j * size : (j + 1) * size]).tobytes()
            key = blake2b(ids, digest_size=N_HASH_BYTES, key=before).digest()
            pages.append((key, ids))
        return pages[i]

    def _deepest(self, request: Request, n_blocks: int) -> tuple[Node | None, int]:
        """The last block of the longest prefix that is there, and how many blocks it has.  Begins
        where the last search ended: while a block is there, those before it are."""
        node: Node | None = None
        n_found = 0
        if request.found is not None:
            last, n_last = request.found
            if isinstance(last, Node) and self._nodes.get(last.key) is last:
                node, n_found = last, n_last
        while n_found < n_blocks:
            following = self._node(*self._page(request, n_found), request.root, node)
            if following is None:
                break
            node, n_found = following, n_found + 1
        return node, n_found

    def _take_in(self, request: Request, n_full: int, *, leaves: bool) -> bool:
        """Adds blocks up to the first `n_full`.  False if no more of them can be kept: what came
        before was dropped, or another text has the same hash."""
        first, request.n_kept = request.n_kept, n_full
        parent: Node | None = None
        if first:
            parent = self._node_at(request, first - 1)
            if parent is None:
                return False
        path: list[Node] = []
        for i in range(first, n_full):
            key, ids = self._page(request, i)
            node = self._nodes.get(key)
            if node is None:
                node = self._add(key, ids, request.root, parent, request.blocks[i])
            elif node is not self._node(key, ids, request.root, parent):
                self._use(path)
                return False
            elif node.block != request.blocks[i] and not leaves:
                self._exchange(request, i, node.block)
            path.append(node)
            parent = node
        self._use(path)
        return True

    def _announce(self, request: Request) -> None:
        """Others may wait for the block that `request` computes next, if its tokens are known."""
        self._withdraw(request)
        i = request.n_kept
        if (i + 1) * self._block_size <= len(request.token_ids):
            request.coming = self._page(request, i)[0]
            self._coming.setdefault(request.coming, request)

    def _withdraw(self, request: Request) -> None:
        key, request.coming = request.coming, None
        if key is not None and self._coming.get(key) is request:
            del self._coming[key]

    def _node_at(self, request: Request, i: int) -> Node | None:
        """The node of the i-th block that the request owns."""
        node = self._nodes.get(self._page(request, i)[0])
        return node if node is not None and node.block == request.blocks[i] else None

    def _node(self, key: bytes, ids: bytes, root: bytes, parent: Node | None) -> Node | None:
        """The block with this very text in front of it and in it."""
        node = self._nodes.get(key)
        if node is None or node.parent is not parent or node.ids != ids or node.root != root:
            return None
        return node

    def _is_coming(self, request: Request, key: bytes) -> bool:
        """Whether a request that is due before `request` computes the block.  It advances: the
        first in order always does, and everyone becomes the first."""
        other = self._coming.get(key)
        return other is not None and not other.is_paused and other.order < request.order

    def _add(self, key: bytes, ids: bytes, root: bytes, parent: Node | None, block: int) -> Node:
        node = self._nodes[key] = Node(key, ids, root, parent, block)
        if parent is not None:
            parent.children[node] = None
        self._pool.hold(self, [block])
        return node

    def _exchange(self, request: Request, i: int, block: int) -> None:
        """`request` goes on with an equal block in place of its own."""
        own = request.blocks[i]
        self._pool.share([block])
        request.blocks = [*request.blocks[:i], block, *request.blocks[i + 1 :]]  # see BatchWriter
        self._pool.give_back([own])

    def _use(self, path: list[Node]) -> None:
        self._now += 1
        for node in path:
            node.used = self._now
        if path:
            self._note_leaf(path[-1])

    def _note_leaf(self, node: Node) -> None:
        if not node.children:
            heappush(self._leaves, (node.used, node.key))
            if len(self._leaves) > 4 * len(self._nodes) + 64:
                self._leaves = [(n.used, n.key) for n in self._nodes.values() if not n.children]
                heapify(self._leaves)

    def _remove(self, node: Node) -> list[int]:
        """A leaf goes; returns its block if nobody owns it any more."""
        del self._nodes[node.key]
        if self._kept_states is not None:
            self._kept_states.drop(node)
        freed = self._pool.release(self, [node.block])
        if node.parent is not None:
            del node.parent.children[node]
            self._note_leaf(node.parent)
        return freed

    def _drop(self, node: Node) -> list[int]:
        """A node goes, and all that follow it."""
        return [block for each in reversed(node.subtree()) for block in self._remove(each)]
