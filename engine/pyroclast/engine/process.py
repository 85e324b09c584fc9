"""What happens to the loops of a process when it forks, and when the interpreter ends.

Python ends a daemon thread where it stands, and a child of a fork has only the thread that forked.
So both wait until nobody is in the middle of a step, for a few seconds at most.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

_MAX_WAIT_S = 5.0


class Watched(Protocol):
    """A loop, as far as this module is concerned."""

    def hold(self, timeout_s: float) -> bool:
        """Takes the lock; False if somebody else keeps it."""
        ...

    def release(self) -> None:
        """Gives it back."""
        ...

    def renew(self, *, was_held: bool) -> None:
        """Makes the loop usable in the child of a fork, or closes it."""
        ...


class _Watch:
    def __init__(self) -> None:
        self._loops: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._held: list[tuple[Watched, bool]] = []  # while it forks

    def add(self, loop: Watched) -> None:
        # The last that is registered is the first to run: before that of the native executor, which
        # the loop's model has brought in.
        atexit.unregister(self.end)
        atexit.register(self.end)
        self._loops.add(loop)

    def end(self) -> None:
        """No other thread begins a step from now on; the one that ends the interpreter may."""
        for loop in list(self._loops):
            loop.hold(_MAX_WAIT_S)

    def before_fork(self) -> None:
        self._held = [(loop, loop.hold(_MAX_WAIT_S)) for loop in list(self._loops)]

    def in_parent(self) -> None:
        held, self._held = self._held, []
        for loop, was_held in held:
            if was_held:
                loop.release()

    def in_child(self) -> None:
        held, self._held = self._held, []
        for loop, was_held in held:
            loop.renew(was_held=was_held)


_watch = _Watch()
os.register_at_fork(
    before=_watch.before_fork,
    after_in_parent=_watch.in_parent,
    after_in_child=_watch.in_child,
)


def watch(loop: Watched) -> None:
    """Sees to `loop` from now on, as long as it lives."""
    _watch.add(loop)
