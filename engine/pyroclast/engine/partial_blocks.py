"""The prefix cache with parts of blocks: what two texts share need not end with a block.

Kernels read whole blocks, so a request cannot share a part of one.  It copies the block into one
of its own and computes what differs: a copy of 32 positions costs less than one token.  The source
is a full block, the last one of a request that runs (see `running_tails`), or the last one of a
finished request, which is kept although it is not full.  So the next turn of a conversation
computes its new tokens alone, and the answers to one prompt compute it once.

Only what finite logits were computed from is copied.  A NaN of one token may lie in the cells of
others of its block, which texts without that token would copy.

A request with recurrent layers goes on from the end of a block, where a state was kept: it copies
nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.prefix_cache import STOPPED, PrefixCache
from pyroclast.engine.prefix_states import Node
from pyroclast.engine.request import Request
from pyroclast.engine.roots import N_HASH_BYTES
from pyroclast.engine.running_tails import MAX_LOOKED_AT, Place, RunningTails, Tail, n_equal
from pyroclast.engine.state_slots import StateSlots


class Part(NamedTuple):
    """What a request copies, or has copied: the first tokens of a block behind another one.  whole:
    all tokens that the block had by then."""

    holder: Node | Tail
    behind: Place
    token_ids: list[int]
    whole: list[int]


class PartialBlocks(PrefixCache):
    """copy: copies a block, copy(source, target); None: only full blocks are shared."""

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_idle_blocks: int | None = None,
        states: StateSlots | None = None,
        copy: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(pool, block_size, max_idle_blocks, states)
        self._copy = copy if states is None else None
        self._first_nodes: dict[bytes, dict[Node, None]] = {}  # by root, in order of their coming
        self._tails = RunningTails()

    def find(self, request: Request) -> list[int] | None:
        blocks = super().find(request)
        request.source = None
        if blocks is None or self._copy is None:
            return blocks
        first = len(blocks) * self._block_size
        wanted = request.token_ids[first : min(request.n_skippable, first + self._block_size)]
        if not wanted:
            return blocks
        parent = self._nodes[self._page(request, len(blocks) - 1)[0]] if blocks else None
        behind = request.root if parent is None else parent
        node, n_tokens = self._longest_part(request, parent, wanted)
        tail, n_of_tail = self._tails.longest(behind, first, wanted)
        if self._tails.is_coming(request, behind, first, wanted, max(n_tokens, n_of_tail)):
            request.found = None if parent is None else (parent, len(blocks))
            return None
        if tail is not None and tail.request is not None and n_of_tail > n_tokens:
            whole = tail.request.token_ids[first : tail.request.n_computed]
            request.source = Part(tail, behind, wanted[:n_of_tail], whole)
        elif node is not None:
            whole = array("i", node.ids).tolist()
            request.source = Part(node, behind, wanted[:n_tokens], whole)
            self._use([node])  # so that the blocks which the request takes are others
        return blocks

    def admit(self, request: Request, n_shared: int) -> None:
        super().admit(request, n_shared)
        self.load(request, n_shared)
        if request.n_computed == n_shared * self._block_size:
            self._copy_part(request, n_shared)
        else:
            request.source = None
        request.n_unproven = request.n_computed  # its own logits tell of what it shares, too
        self._note_tail(request)

    def load(self, request: Request, n_shared: int) -> None:
        """Loads what follows the first blocks of the request from elsewhere, if it can."""

    def keep(self, request: Request, *, leaves: bool = False) -> None:
        n_kept = request.n_kept
        super().keep(request, leaves=leaves)
        is_news = leaves or request.n_kept != n_kept or request.n_step_tokens > 1
        if is_news and request.is_proven:
            self._note_sound(request)
        if not leaves:
            self._note_tail(request)

    def leave(self, request: Request) -> None:
        super().leave(request)
        self._tails.withdraw(request)
        if not request.is_proven:  # no logits have told yet whether all is finite
            self._pool.soil(request.blocks)
        elif self._copy is not None:
            self._keep_part(request)

    def drop(self, request: Request) -> list[int]:
        source, request.source = request.source, None
        was_running = bool(request.blocks)  # else it has copied nothing yet
        freed = super().drop(request)
        if was_running and isinstance(source, Part):
            freed += self._drop_like(source, request.root)
        return freed

    def forget(self) -> None:
        self._pool.soil(node.block for node in self._nodes.values() if not node.is_sound)
        super().forget()
        self._first_nodes.clear()
        self._tails.forget()

    # ---- inside --------------------------------------------------------------------------------

    def _exchange(self, request: Request, i: int, block: int) -> None:
        if not request.is_proven:  # as when it leaves
            self._pool.soil([request.blocks[i]])
        super()._exchange(request, i, block)

    def _copy_part(self, request: Request, n_shared: int) -> None:
        """Copies the block that `find` has found, unless it was evicted, or its request preempted,
        for the request itself."""
        if request.source is None or self._copy is None:
            return
        assert isinstance(request.source, Part), "what `find` has found"
        holder = request.source.holder
        if isinstance(holder, Node) and self._nodes.get(holder.key) is holder:
            block = holder.block
        elif isinstance(holder, Tail) and holder.request is not None:
            block = holder.request.blocks[n_shared]
        else:
            request.source = None
            return
        self._copy(block, request.blocks[n_shared])
        request.n_computed += len(request.source.token_ids)

    def _drop_like(self, part: Part, root: bytes) -> list[int]:
        """Forgets the block that this part was copied from, and all that go on from its text: that
        tells, where tails have become nodes.  Other blocks that begin like the part stay: they were
        not read, and texts that have one token in common are many."""
        ids = array("i", part.whole).tobytes()
        parent = part.behind if isinstance(part.behind, Node) else None
        nodes = [n for n in self._following(parent, root) if n.ids.startswith(ids)]
        freed = [block for node in nodes for block in self._drop(node)]
        for request in self._tails.requests_behind(part.behind):
            first = request.n_kept * self._block_size
            if request.token_ids[first : first + len(part.whole)] == part.whole:
                request.n_kept = STOPPED  # it keeps no more of its text, and lends none
                self._tails.withdraw(request)
        return freed

    def _longest_part(
        self, request: Request, parent: Node | None, wanted: list[int]
    ) -> tuple[Node | None, int]:
        """The block behind `parent` that begins with the longest part of `wanted`, and how many
        tokens of it."""
        found: Node | None = None
        n_tokens = 0
        for node in self._newest(parent, request.root):
            n_same = n_equal(array("i", node.ids), wanted) if node.is_sound else 0
            if n_same > n_tokens:
                found, n_tokens = node, n_same
        return found, n_tokens

    def _note_tail(self, request: Request) -> None:
        """Others may copy from the request's last block, or wait for it, if the cache has all
        blocks before it."""
        n_blocks = (len(request.token_ids) - 1) // self._block_size
        behind: Node | bytes | None = None
        if self._copy is not None and request.n_kept == n_blocks:
            behind = self._node_at(request, n_blocks - 1) if n_blocks else request.root
        self._tails.note(request, behind)

    def _newest(self, parent: Node | None, root: bytes) -> list[Node]:
        """The newest blocks behind `parent`, or, without one, behind the root."""
        return list(islice(reversed(self._following(parent, root)), MAX_LOOKED_AT))

    def _following(self, parent: Node | None, root: bytes) -> dict[Node, None]:
        """All blocks behind `parent`, or, without one, behind the root."""
        return self._first_nodes.get(root, {}) if parent is None else parent.children

    def _keep_part(self, request: Request) -> None:
        """Keeps the request's last block, which is not full, if the cache has what is before it."""
        n_full, n_tokens = divmod(request.n_computed, self._block_size)
        if not n_tokens or request.n_kept != n_full:  # it keeps no more, or has nothing to keep
            return
        parent = self._node_of(request, n_full * self._block_size) if n_full else None
        if n_full and parent is None:
            return
        last = request.token_ids[request.n_computed - n_tokens : request.n_computed]
        ids = array("i", last).tobytes()
        for other in self._newest(parent, request.root):
            if other.is_sound and other.ids.startswith(ids):
                self._use([other])
                return
        before = request.root if parent is None else parent.key
        key = blake2b(ids, digest_size=N_HASH_BYTES, key=before).digest()
        if key not in self._nodes:
            node = self._add(key, ids, request.root, parent, request.blocks[n_full])
            node.is_sound = True
            self._use([node])

    def _note_sound(self, request: Request) -> None:
        """Its prompt has given finite logits, and so has every token that it has computed since."""
        n_full = request.n_computed // self._block_size
        node = self._node_of(request, n_full * self._block_size) if n_full else None
        while node is not None and not node.is_sound:
            node.is_sound, node = True, node.parent

    def _add(self, key: bytes, ids: bytes, root: bytes, parent: Node | None, block: int) -> Node:
        if self._copy is not None:  # of one text, the longest part is enough
            for other in self._newest(parent, root):
                if len(other.ids) < len(ids) and ids.startswith(other.ids):
                    self._remove(other)
        node = super()._add(key, ids, root, parent, block)
        if parent is None:
            self._first_nodes.setdefault(root, {})[node] = None
        return node

    def _remove(self, node: Node) -> list[int]:
        if not node.is_sound:
            self._pool.soil([node.block])
        if node.parent is None:
            first = self._first_nodes[node.root]
            del first[node]
            if not first:
                del self._first_nodes[node.root]
        return super()._remove(node)
