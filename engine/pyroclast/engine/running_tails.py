"""The last blocks of requests that run: what later requests copy of them, and when they wait.

The answers to one prompt differ behind it, mostly within a block, so they cannot share that block.
The first one computes the prompt; the others wait for it, copy the block up to the prompt's end,
and compute their last token alone.

A request lends its last block once logits were computed behind all that it has computed.  It fails
if they are not finite, so no NaN lies in the cells before them; nor behind them, where drafts were
wrong: their logits were finite too, or the block was zeroed.

A tail lasts until its request goes on to the next block or leaves its blocks.  Who has seen it may
hold it for longer; it holds its request no more then.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pyroclast.engine.prefix_states import Node
from pyroclast.engine.request import Request

MAX_LOOKED_AT = 64  # blocks that follow the same text; the newest are looked at
_MIN_SPARED = 4  # tokens: who waits starts a step later, and a step reads all weights

Place = Node | bytes  # the block before the last one, or the root of a text without one


class Tail:
    """The block in which a running request's text ends.  request: None after the tail's end."""

    __slots__ = ("behind", "request")

    def __init__(self, request: Request, behind: Place) -> None:
        self.request: Request | None = request
        self.behind = behind


class RunningTails:
    """The tails of requests whose full blocks are all in the prefix cache, by the block before."""

    def __init__(self) -> None:
        self._tails: dict[Request, Tail] = {}
        self._behind: dict[Place, dict[Tail, None]] = {}  # each in order of their coming

    def note(self, request: Request, behind: Place | None) -> None:
        """The text of `request`, which runs, ends in the block behind this one.  None: it has full
        blocks that the cache does not have."""
        tail = self._tails.get(request)
        if tail is not None and tail.behind == behind:
            return
        self.withdraw(request)
        if behind is not None:
            tail = self._tails[request] = Tail(request, behind)
            self._behind.setdefault(behind, {})[tail] = None

    def withdraw(self, request: Request) -> None:
        """`request` goes on to another block, or is about to lose its blocks."""
        if (tail := self._tails.pop(request, None)) is None:
            return
        tail.request = None
        tails = self._behind.get(tail.behind, {})  # none if Ctrl-C interrupted `note`
        tails.pop(tail, None)
        if not tails:
            self._behind.pop(tail.behind, None)

    def forget(self) -> None:
        """No request has blocks any more."""
        for tail in self._tails.values():
            tail.request = None
        self._tails.clear()
        self._behind.clear()

    def requests_behind(self, place: Place) -> list[Request]:
        """The requests whose last noted tails are behind this block."""
        tails = self._behind.get(place, {})
        return [tail.request for tail in tails if tail.request is not None]

    def longest(self, behind: Place, first: int, wanted: Sequence[int]) -> tuple[Tail | None, int]:
        """The tail to copy that begins with the longest part of `wanted`, and how many tokens of
        it.  first: the position of wanted[0], where the block begins."""
        found: Tail | None = None
        n_tokens = 0
        for tail, request in self._newest(behind):
            if _lends(request):
                n_same = n_equal(request.token_ids[first : request.n_computed], wanted)
                if n_same > n_tokens:
                    found, n_tokens = tail, n_same
                    if n_tokens == len(wanted):
                        break
        return found, n_tokens

    def is_coming(
        self, request: Request, behind: Place, first: int, wanted: Sequence[int], n_there: int
    ) -> bool:
        """Whether `request` should wait, because one that is due before it computes more of
        `wanted` than the `n_there` tokens that can be copied now.

        The other one reads the end of its text, so it lends after a block's tokens at most; and it
        advances: see `PrefixCache._is_coming`.  It must spare `request` at least half of what is
        left to compute.  So each wait halves this, and texts with a short common beginning, as of a
        chat template, are read side by side, not one after the other."""
        n_left = len(request.token_ids) - first - n_there
        n_least = max(_MIN_SPARED, (n_left + 1) // 2)
        if len(wanted) - n_there < n_least:
            return False
        for _, other in self._newest(behind):
            if not _lends(other) and not other.is_paused and other.order < request.order:
                n_same = n_equal(other.token_ids[first : first + len(wanted)], wanted)
                if n_same - n_there >= n_least:
                    return True
        return False

    def _newest(self, behind: Place) -> list[tuple[Tail, Request]]:
        tails = islice(reversed(self._behind.get(behind, {})), MAX_LOOKED_AT)
        return [(tail, tail.request) for tail in tails if tail.request is not None]


def _lends(request: Request) -> bool:
    """Whether logits were computed behind all that it has computed, and its prompt was read."""
    return request.n_unread == 1 and request.is_proven


def n_equal(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
