"""The time and memory of one run of a chat template: metered, and stopped at a limit.

There are two kinds of limit.  Everything the template produces (characters, list slots) is added
up, and the thread's CPU clock is read each time.  And a single operation may produce or traverse
only a bounded amount, because the clock is not read inside one.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, KeysView, ValuesView
from typing import Any

from jinja2 import Undefined

from pyroclast.errors import TemplateError

_CPU_SECONDS = 2.0  # of the rendering thread; ordinary templates take a millisecond
_MADE_UNITS = 1 << 25  # characters and slots produced in all, plus an allowance for long messages:
_MADE_PER_INPUT_UNIT = 100
_OPERATION_UNITS = 1 << 22  # what one operation may produce or traverse
SLOT_UNITS = 8  # a list slot, in characters

_SEQUENCES = (list, tuple, range, KeysView, ValuesView, ItemsView)
# Types whose str() shows nothing but their own items, which `bound` counts.
_PRINTABLE = (str, int, float, type(None), Undefined, dict, *_SEQUENCES)


class Meter:
    """Meters one rendering.  Every method raises TemplateError beyond the limits."""

    def __init__(self, input_units: int) -> None:
        self._left = _MADE_UNITS + _MADE_PER_INPUT_UNIT * input_units
        self._most = _OPERATION_UNITS + SLOT_UNITS * input_units
        self._deadline = time.thread_time() + _CPU_SECONDS

    def spend(self, units: int = 1) -> None:
        """Counts units produced, and checks the clock."""
        self._left -= units
        if self._left < 0:
            raise TemplateError(
                "the chat template produces too much text or too many lists; stopped"
            )
        if time.thread_time() > self._deadline:
            raise TemplateError(f"the chat template ran for {_CPU_SECONDS:g} s; stopped (a loop?)")

    def allow(self, units: int) -> None:
        """Refuses one operation that would produce or traverse more than any chat needs."""
        if units > self._most:
            raise TemplateError(f"one step of the chat template is too large ({units}); stopped")
        self.spend()

    def bound(self, value: object, *, printable: bool = False) -> int:
        """Refuses a value too large to traverse and returns its units.  Parts that occur twice
        count twice, as in printing.  `printable`: also refuses objects that print others."""
        stack, units = [value], 0
        while stack and units <= self._most:
            item = stack.pop()
            if isinstance(item, str):
                units += len(item)
            elif isinstance(item, dict):
                units += 2 * SLOT_UNITS * len(item)
                stack += [*item, *item.values()] if units <= self._most else ()
            elif isinstance(item, _SEQUENCES):
                units += SLOT_UNITS * len(item)
                stack += item if units <= self._most else ()
            elif printable and not isinstance(item, _PRINTABLE):
                raise TemplateError(f"the chat template prints a {type(item).__name__}")
        self.allow(units)
        return units

    def text(self, value: object) -> str:
        """str(value), counted."""
        if not isinstance(value, str):
            self.bound(value, printable=True)
        text = str(value)
        self.spend(len(text))
        return text

    def made(self, value: Any) -> Any:
        """Counts a result's own size (its parts were counted before) and returns it."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, dict | list | tuple):
            self.spend(SLOT_UNITS * len(value))
        else:
            self.spend()
        return value

    def drained(self, values: Iterable[Any]) -> list[Any]:
        """The items of an iterator as a list, each of them counted."""
        return [self.made(item) for item in values]
