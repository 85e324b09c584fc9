"""The nodes of the prefix cache, and the states of recurrent layers that some of them hold.

A request goes on from the last node on its way that has a state; blocks behind that are computed
again.  So states are kept where requests will probably go on from: see `state_slots`.
"""

from __future__ import annotations

from collections.abc import Callable

from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import NO_STATE, StateSlots


class Node:
    """A block in the cache."""

    __slots__ = (
        "block", "children", "ids", "is_sound", "key", "n_states", "parent", "root", "state",
        "used",
    )  # fmt: skip

    def __init__(
        self, key: bytes, ids: bytes, root: bytes, parent: Node | None, block: int
    ) -> None:
        self.key, self.ids, self.root, self.parent = key, ids, root, parent
        self.block = block
        self.children: dict[Node, None] = {}  # in order of their coming
        self.state = NO_STATE  # the slot with the state at the end of the block
        self.n_states = 0  # how many it has had: another one may lie in the slot of the first
        self.is_sound = False  # a row of finite logits was computed behind it
        self.used = 0  # when, counted in uses of the cache

    def subtree(self) -> list[Node]:
        """The node and all that follow it, each before those behind it."""
        found = [self]
        for node in found:
            found.extend(node.children)
        return found


class NodeStates:
    """A keeper of `states` (see `state_slots.StateKeeper`)."""

    def __init__(self, states: StateSlots) -> None:
        self._states = states
        self._nodes: dict[Node, None] = {}  # those with a state, the least recently used first
        states.keeper = self

    @property
    def n_idle(self) -> int:
        """See StateKeeper."""
        return sum(self._states.has_one_owner(node.state) for node in self._nodes)

    def evict_state(self) -> bool:
        """See StateKeeper."""
        for node in self._nodes:
            if self._states.has_one_owner(node.state):
                self.drop(node)
                return True
        return False

    def deepest(self, node: Node | None) -> Node | None:
        """The last node on the way to `node` that has a state, which is used now."""
        while node is not None and node.state == NO_STATE:
            node = node.parent
        if node is not None:
            self._nodes[node] = self._nodes.pop(node)
        return node

    def take(self, request: Request, node_of: Callable[[int], Node | None]) -> None:
        """Gives each snapshot of the request to the node of its page, if there is one without a
        state.  node_of: the node behind so many of its tokens."""
        for n_tokens, slot, lasts in request.snapshots:
            node = node_of(n_tokens)
            if node is None or node.state != NO_STATE:
                self._states.give_back(slot)
                continue
            node.n_states += 1  # first: see `tiered_cache`
            node.state = slot
            self._nodes[node] = None
            if not lasts:
                if isinstance(request.rolling, Node):
                    self.drop(request.rolling)
                request.rolling = node
        request.snapshots = []

    def drop(self, node: Node) -> None:
        """The node has no state any more."""
        if node.state != NO_STATE:
            del self._nodes[node]
            self._states.give_back(node.state)
            node.state = NO_STATE

    def forget(self) -> None:
        """All slots are free again."""
        self._nodes.clear()
