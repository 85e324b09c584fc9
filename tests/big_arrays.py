"""Which large arrays are still in memory, asked without the garbage collector's help."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

LARGE = 192 << 10  # bytes: more than arrays of a fixed size have, less than a tiny model's


class BigArrays:
    """The large arrays that NumPy has made since `watched` began."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[np.ndarray]] = []

    def watch(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Does what `make` does, and notes what owns the memory of its result."""

        def made(*arguments: Any, **options: Any) -> Any:
            array = make(*arguments, **options)
            if array.nbytes >= LARGE:
                self._made.append(weakref.ref(array))
            return array

        return made

    def freed(self) -> bool:
        """Whether all go, while other threads end what they do."""
        until_s = time.monotonic() + 60
        while self.alive() and time.monotonic() < until_s:
            time.sleep(0.01)
        return not self.alive()

    def alive(self) -> list[tuple[Any, ...]]:
        """Shape, dtype and bytes of each that is still there."""
        arrays = [found for each in self._made if (found := each()) is not None]
        return [(array.shape, str(array.dtype), array.nbytes) for array in arrays]


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[BigArrays]:
    """Notes arrays from now on; circles stay until the end."""
    arrays = BigArrays()
    gc.collect()
    gc.disable()
    try:
        with monkeypatch.context() as patched:
            for name in ("zeros", "empty", "frombuffer", "array"):
                patched.setattr(np, name, arrays.watch(getattr(np, name)))
            yield arrays
    finally:
        gc.enable()
