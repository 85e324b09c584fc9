"""Blocks of finished work that later requests share: the prefix cache.

A full block is known by a chained hash: of the block before it, and of its own token ids.  The
chain begins with the request's `root`, so requests with different roots share nothing.  A hash only
finds a block; the ids and the block before it are compared, so two texts with one hash stay apart.
A token's bits depend on nothing but its context, so a block from the cache holds the bits that
computing it again would give.

While a request computes its prompt, others that need the same blocks wait for them instead of
computing them as well.

Whoever owns a block owns the blocks before it too.  So idle blocks, which only the cache owns, can
always be evicted, leaves first, the least recently used first.  Kwon et al. 2023 (PagedAttention)
share blocks this way.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from heapq import heapify, heappop, heappush

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.request import Request

_N_HASH_BYTES = 16
_STOPPED = 1 << 62  # n_kept of a request whose blocks are kept no more


class Roots:
    """The roots of requests.  shared: all calls share blocks, unless their salts differ; otherwise
    only the requests of one call do."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared

    def of(self, call: object, salt: str | None = None) -> bytes:
        """The root of a request of `call`, whose user gave `salt`."""
        if self._shared and salt is None:
            return b""
        whose = "" if self._shared else f"{id(call)}"
        return blake2b(f"{whose}/{salt or ''}".encode(), digest_size=_N_HASH_BYTES).digest()


class _Node:
    """A block in the cache."""

    __slots__ = ("block", "children", "ids", "key", "parent", "root", "used")

    def __init__(
        self, key: bytes, ids: bytes, root: bytes, parent: _Node | None, block: int
    ) -> None:
        self.key, self.ids, self.root, self.parent = key, ids, root, parent
        self.block = block
        self.children: set[_Node] = set()
        self.used = 0  # when, counted in uses of the cache


class PrefixCache:
    """A keeper of `pool` (see `blocks.Keeper`).  max_idle_blocks: how many blocks that no request
    owns it keeps; None: as many as there is room for."""

    name = "prefix cache"

    def __init__(
        self, pool: BlockPool, block_size: int, max_idle_blocks: int | None = None
    ) -> None:
        self._pool, self._block_size = pool, block_size
        self._max_idle = pool.n_blocks if max_idle_blocks is None else max_idle_blocks
        self._nodes: dict[bytes, _Node] = {}
        # The request that computes a block which is not in the cache yet.
        self._coming: dict[bytes, Request] = {}
        # Leaves by their last use; an entry is out of date if its node was used again or is none.
        self._leaves: list[tuple[int, bytes]] = []
        self._now = 0
        pool.register(self)

    def __len__(self) -> int:
        return len(self._nodes)

    # ---- what the scheduler asks ---------------------------------------------------------------

    def find(self, request: Request) -> list[int] | None:
        """The blocks that `request` can take over, from its first token on; None if it should wait
        for more of them.  At least one token is left to compute: its logits are needed."""
        n_blocks = request.n_skippable // self._block_size
        pages = self._pages(request, n_blocks)
        found: list[_Node] = []
        parent = None
        for key, ids in pages[:n_blocks]:
            node = self._node(key, ids, request.root, parent)
            if node is None:
                break
            found.append(node)
            parent = node
        if len(found) < n_blocks and self._is_coming(request, pages[len(found)][0]):
            return None
        self._use(found)
        return [node.block for node in found]

    def admit(self, request: Request, n_shared: int) -> None:
        """`request` has its blocks, of which the first `n_shared` are from the cache; it computes
        the others."""
        request.n_kept = n_shared
        for key, _ in self._pages(request, len(request.token_ids) // self._block_size)[n_shared:]:
            self._coming.setdefault(key, request)

    def keep(self, request: Request, *, leaves: bool = False) -> None:
        """Takes in the blocks that `request` has filled.  Where the cache has got an equal one from
        another request meanwhile, `request` goes on with that one, unless it `leaves`."""
        n_full = request.n_computed // self._block_size
        if n_full <= request.n_kept:
            return
        first, request.n_kept = request.n_kept, n_full
        pages = self._pages(request, n_full)
        parent = self._nodes.get(pages[first - 1][0]) if first else None
        if first and (parent is None or parent.block != request.blocks[first - 1]):
            request.n_kept = _STOPPED  # what it had was dropped: these blocks hang on nothing
            return
        path: list[_Node] = []
        for i in range(first, n_full):
            key, ids = pages[i]
            if self._coming.get(key) is request:
                del self._coming[key]
            node = self._nodes.get(key)
            if node is None:
                node = self._add(key, ids, request.root, parent, request.blocks[i])
            elif node is not self._node(key, ids, request.root, parent):
                request.n_kept = _STOPPED  # another text has this hash
                break
            elif node.block != request.blocks[i] and not leaves:
                self._exchange(request, i, node.block)
            path.append(node)
            parent = node
        self._use(path)

    def leave(self, request: Request) -> None:
        """`request` is about to lose its blocks: keeps those that it has filled."""
        self.keep(request, leaves=True)
        for key, _ in request.pages:
            if self._coming.get(key) is request:
                del self._coming[key]

    def drop(self, request: Request) -> None:
        """Forgets everything that `request` has read or filled, and what follows it."""
        request.n_kept = _STOPPED
        for key, _ in request.pages:
            node = self._nodes.get(key)
            if node is not None:
                self._drop(node)

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
        self._coming.clear()
        self._leaves.clear()

    # ---- inside --------------------------------------------------------------------------------

    def _pages(self, request: Request, n_blocks: int) -> list[tuple[bytes, bytes]]:
        """The key and the ids of at least the first `n_blocks` blocks of the request's text."""
        pages, size = request.pages, self._block_size
        for i in range(len(pages), n_blocks):
            before = pages[-1][0] if pages else request.root
            ids = array("i", request.token_ids[i * size : (i + 1) * size]).tobytes()
            key = blake2b(ids, digest_size=_N_HASH_BYTES, key=before).digest()
            pages.append((key, ids))
        return pages

    def _node(self, key: bytes, ids: bytes, root: bytes, parent: _Node | None) -> _Node | None:
        """The block with this very text in front of it and in it."""
        node = self._nodes.get(key)
        if node is None or node.parent is not parent or node.ids != ids or node.root != root:
            return None
        return node

    def _is_coming(self, request: Request, key: bytes) -> bool:
        """Whether another request computes the block, and has gone on since `request` last came."""
        other = self._coming.get(key)
        if other is None or other is request or other.is_paused:
            return False
        seen, request.waits_for = request.waits_for, (other, other.n_computed)
        return seen != request.waits_for

    def _add(self, key: bytes, ids: bytes, root: bytes, parent: _Node | None, block: int) -> _Node:
        node = self._nodes[key] = _Node(key, ids, root, parent, block)
        if parent is not None:
            parent.children.add(node)
        self._pool.hold(self, [block])
        return node

    def _exchange(self, request: Request, i: int, block: int) -> None:
        """`request` goes on with an equal block in place of its own."""
        own = request.blocks[i]
        self._pool.share([block])
        request.blocks = [*request.blocks[:i], block, *request.blocks[i + 1 :]]  # see BatchWriter
        self._pool.give_back([own])

    def _use(self, path: list[_Node]) -> None:
        self._now += 1
        for node in path:
            node.used = self._now
        if path:
            self._note_leaf(path[-1])

    def _note_leaf(self, node: _Node) -> None:
        if not node.children:
            heappush(self._leaves, (node.used, node.key))
            if len(self._leaves) > 4 * len(self._nodes) + 64:
                self._leaves = [(n.used, n.key) for n in self._nodes.values() if not n.children]
                heapify(self._leaves)

    def _remove(self, node: _Node) -> None:
        """A leaf goes."""
        del self._nodes[node.key]
        self._pool.release(self, [node.block])
        if node.parent is not None:
            node.parent.children.discard(node)
            self._note_leaf(node.parent)

    def _drop(self, node: _Node) -> None:
        """A node goes, and all that follow it."""
        below = [node]
        for each in below:
            below.extend(each.children)
        for each in reversed(below):
            self._remove(each)
