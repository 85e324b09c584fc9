"""The time and memory of one run of a chat template: metered, and stopped at a limit.

There are two kinds of limit.  Everything the template produces (characters, list slots) is added
up, and the thread's CPU clock is read each time.  And a single operation may produce or traverse
only a bounded amount, because the clock is not read inside one.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, KeysView, Sized, ValuesView
from types import GeneratorType
from typing import Any

from jinja2 import Undefined

from pyroclast.errors import TemplateError
from pyroclast.text.template_table import Cost

_CPU_SECONDS = 2.0  # of the rendering thread; ordinary templates take a millisecond
_MADE_UNITS = 1 << 25  # characters and slots produced in all, plus an allowance for long messages:
_MADE_PER_INPUT_UNIT = 100
_OPERATION_UNITS = 1 << 22  # what one operation may produce or traverse
SLOT_UNITS = 8  # a list slot, in characters
_PAIRS = 1 << 27  # characters compared with characters in one operation: 0.15 s at the worst
_PAIRS_PER_INPUT_UNIT = 64
MAX_INTEGER_BITS = 4096  # // and % take time with the square of the bits
_MAX_NESTING = 256  # of lists and dicts: printing and comparing recurse in C

_SEQUENCES = (list, tuple, range, KeysView, ValuesView, ItemsView)
# Types whose str() shows nothing but their own items, which `bound` counts.
_PRINTABLE = (str, int, float, type(None), Undefined, dict, *_SEQUENCES)


class Meter:
    """Meters one rendering.  Every method raises TemplateError beyond the limits."""

    def __init__(self, input_units: int) -> None:
        self._left = _MADE_UNITS + _MADE_PER_INPUT_UNIT * input_units
        self._most = _OPERATION_UNITS + SLOT_UNITS * input_units
        self._pairs = _PAIRS + _PAIRS_PER_INPUT_UNIT * input_units
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

    def allow_pairs(self, n: int, m: int) -> None:
        """Refuse one operation that may compare n things with m things, each with each."""
        if n * m > self._pairs:
            raise TemplateError(
                f"one step of the chat template is too slow ({n} times {m}); stopped"
            )

    def allow_cost(self, cost: Cost, subject: Any, others: tuple[Any, ...]) -> None:
        """Refuse an operation that takes too long by its class in the table, on values of this
        size.  Each value has passed `bound` before."""
        if isinstance(subject, str) and cost in (Cost.ITEMS, Cost.EACH, Cost.HASHED):
            self.allow(SLOT_UNITS * len(subject))
        if cost is Cost.NUMBERS:
            if not all(isinstance(value, int | float) for value in (subject, *others)):
                raise TemplateError("the chat template tests the parity of what is no number")
        elif cost is Cost.HASHED and isinstance(subject, Iterable):
            items = list(subject)
            if others:  # then the keys are attributes of the items, and may be numbers
                self.allow_pairs(len(items), self.bound(items))
            else:
                self.hashed(items)
        elif cost in (Cost.PAIRS, Cost.EACH) and others:
            n = len(subject) if isinstance(subject, Sized) else self.bound(subject)
            self.allow_pairs(n, self.bound(others))

    def allow_bits(self, n_bits: int) -> None:
        """Refuse an integer that makes arithmetic slow."""
        if n_bits > MAX_INTEGER_BITS:
            raise TemplateError(
                f"the chat template computes a number of {n_bits} bits; at most {MAX_INTEGER_BITS}"
            )

    def bound(self, value: object, *, printable: bool = False) -> int:
        """Refuse a value too large to be walked; -> its units, parts that occur twice counted
        twice, as printing and comparing do.  `printable`: refuse also objects that print others."""
        level, units, depth = [value], 0, 0
        while level:
            inner: list[object] = []
            for item in level:
                if isinstance(item, str):
                    units += len(item)
                elif isinstance(item, dict):
                    units += 2 * SLOT_UNITS * len(item)
                    inner += [*item, *item.values()] if units <= self._most else ()
                elif isinstance(item, _SEQUENCES):
                    units += SLOT_UNITS * len(item)
                    inner += item if units <= self._most else ()
                elif isinstance(item, int):
                    self.allow_bits(item.bit_length())
                elif printable and not isinstance(item, _PRINTABLE):
                    raise TemplateError(f"the chat template prints a {type(item).__name__}")
                if units > self._most:
                    self.allow(units)
            level, depth = inner, depth + 1
            if depth > _MAX_NESTING:
                raise TemplateError(f"the chat template nests more than {_MAX_NESTING} lists")
        self.allow(units)
        return units

    def hashed(self, keys: list[Any]) -> None:
        """Refuse keys that could all collide: strings cannot, because their hash is randomised."""
        others = [key for key in keys if not isinstance(key, str)]
        self.allow_pairs(len(others), self.bound(others))

    def text(self, value: object) -> str:
        """str(value), counted."""
        if not isinstance(value, str):
            self.bound(value, printable=True)
        text = str(value)
        self.spend(len(text))
        return text

    def made(self, value: Any) -> Any:
        """Count a result's own size (what it refers to was counted before), and pass it on.
        Iterators other than generators become lists, because `bound` cannot look into them."""
        if _is_opaque(type(value)):
            value = list(value)
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, dict | list | tuple):
            self.spend(SLOT_UNITS * len(value))
        else:
            self.allow_bits(value.bit_length() if isinstance(value, int) else 0)
            self.spend()
        return value

    def drained(self, values: Iterable[Any]) -> list[Any]:
        """The items of an iterator as a list, each of them counted."""
        return [self.made(item) for item in values]


def _is_opaque(kind: type) -> bool:
    """Whether a type is an iterator of Python's own (as `reversed` is), other than a generator."""
    return kind.__module__ == "builtins" and hasattr(kind, "__next__") and kind is not GeneratorType
