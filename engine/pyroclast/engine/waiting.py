"""The requests that wait to be admitted, in the order in which they are due."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import Generic, TypeVar

from pyroclast.engine.request import Request

R = TypeVar("R", bound=Request)


class Waiting(Generic[R]):
    """A list sorted by `order`; it counts the tokens in it."""

    def __init__(self) -> None:
        self._requests: list[R] = []
        self.n_tokens = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[R]:
        return iter(self._requests)

    def __getitem__(self, i: int) -> R:
        return self._requests[i]

    def add(self, request: R) -> None:
        insort(self._requests, request, key=attrgetter("order"))
        self.n_tokens += len(request.token_ids)

    def pop(self, i: int) -> R:
        request = self._requests.pop(i)
        self.n_tokens -= len(request.token_ids)
        return request

    def remove(self, gone: Collection[Request]) -> None:
        """Forgets those that are in `gone`."""
        self._requests = [request for request in self._requests if request not in gone]
        self.recount()

    def recount(self) -> None:
        """Counts the tokens afresh: an interruption between a change and its count leaves a wrong
        number."""
        self.n_tokens = sum(len(request.token_ids) for request in self._requests)
