"""The lock of the thread whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock


def turn_lock() -> tuple[RLock, Callable[[], bool]]:
    """A lock that its owner can take twice, and what tells the calling thread whether it owns it.

    The lock is asked, and no note is kept beside it: one would stay wrong if Ctrl-C came between
    taking the lock and noting that."""
    lock = RLock()
    return lock, lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
