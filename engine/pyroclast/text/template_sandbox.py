"""A Jinja environment for the templates of downloaded models, which strangers wrote.

jinja2's immutable sandbox keeps a template away from Python's internals, but bounds neither time
nor memory.  Here every loop iteration, macro, operator, comparison, filter, test, call and output
goes through a `Meter` (template_meter.py).  So loops in loops, `"a" * 10**9`, a string doubled
sixty times, macros that call themselves and nested lists that print exponentially soon end in a
TemplateError.  Only the filters and methods that chat templates use exist.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable
from types import GeneratorType
from typing import Any, NoReturn

import markupsafe
from jinja2 import Environment, Template, pass_context
from jinja2.ext import LoopControlExtension
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyroclast.errors import TemplateError
from pyroclast.text.template_meter import SLOT_UNITS, Meter
from pyroclast.text.template_syntax import GenerationTag, write_meter
from pyroclast.text.template_table import (
    FILTERS,
    GLOBALS,
    LIST_METHODS,
    OPERATORS,
    PASSING_FILTERS,
    STR_METHODS,
    TESTS,
    Cost,
    is_listed,
)

_MAX_INDENT = 64
_MAX_CALLS_IN_CALLS = 200  # macros and recursive loops; those in use nest some ten deep
_CONTEXTS = (Context, EvalContext, Environment)  # what jinja2 itself passes to filters and tests
# A format field may pad to 999 characters.
_FIELD_UNITS = 1000
_NOT_ASCII = re.compile("[\u0080-\ud7ff\ue000-\U0010ffff]+")
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)|\{[^{}:]*:[^{}]*(?:\d{4}|\{)")


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates with calls of the meter in them.  `start_meter`, before each rendering,
    sets the calling thread's meter, so several threads can render at once."""

    intercepted_binops = frozenset((*OPERATORS, "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # else constant expressions are evaluated, unmetered, at compile time
            finalize=pass_context(lambda _context, value: self.meter.text(value)),
            extensions=[LoopControlExtension, GenerationTag],
        )
        self._local = threading.local()
        filters: dict[str, Any] = dict(self.filters) | self._own_filters()
        self.filters.clear()
        for name, cost in FILTERS.items():
            prints = name not in PASSING_FILTERS
            self.filters[name] = self._metered(filters[name], cost, prints)
        tests: dict[str, Any] = dict(self.tests)
        self.tests.clear()
        for name, cost in TESTS.items():
            self.tests[name] = self._metered(tests[name], cost, name in ("lower", "upper"))
        known = dict(self.globals)
        self.globals.clear()
        self.globals |= {name: known[name] for name in GLOBALS} | {"dict": self._dict}

    @property
    def meter(self) -> Meter:
        """The calling thread's meter."""
        meter: Meter = self._local.meter
        return meter

    def start_meter(self, input_units: int) -> None:
        """A fresh meter for what the calling thread renders next."""
        self._local.meter = Meter(input_units)
        self._local.n_calls = 0

    def compile_metered(self, source: str) -> Template:
        """The template of a source text, with calls of the meter in it."""
        tree = self.parse(source)
        write_meter(tree)
        return self.from_string(tree)

    def _metered(
        self, function: Callable[..., Any], cost: Cost, printable: bool
    ) -> Callable[..., Any]:
        @functools.wraps(function)  # also copies the mark by which jinja2 passes the context first
        def metered(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._admit(args, kwargs, printable)
            values = [a for a in args if not isinstance(a, _CONTEXTS)]
            if values:
                self.meter.allow_cost(cost, values[0], (*values[1:], *kwargs.values()))
            return self.meter.made(function(*args, **kwargs))

        return metered

    def _admit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], printable: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a filter, test or call: generators made into lists, sizes checked."""
        meter = self.meter
        args = tuple(meter.drained(a) if isinstance(a, GeneratorType) else a for a in args)
        for value in (*args, *kwargs.values()):
            if not isinstance(value, _CONTEXTS):
                meter.bound(value, printable=printable)
        return args, kwargs

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ARG002
        """Only the attributes in the table; of types, functions and all else, none."""
        return is_listed(obj, attr)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises at once for a forbidden attribute; jinja2 would print it as nothing."""
        raise TemplateError(
            f"the chat template uses {attribute!r} of a {type(obj).__name__}, which the "
            "sandbox does not allow"
        )

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, with the size of the result checked first."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def metered(*args: Any, **kwargs: Any) -> str:
            self._allow_format(value.__self__, (args, kwargs))
            return wrapped(*args, **kwargs)

        return metered

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call from the template, with its arguments and its result metered."""
        owner, local = getattr(__obj, "__self__", None), __self._local
        args, kwargs = __self._admit(args, kwargs, isinstance(owner, str))
        if isinstance(owner, str | list | tuple):
            __self.meter.bound(owner)
            methods = STR_METHODS if isinstance(owner, str) else LIST_METHODS
            __self.meter.allow_cost(methods[__obj.__name__], owner, (*args, *kwargs.values()))
        if isinstance(owner, str) and __obj.__name__ == "join":
            return __self._join(args[0], owner)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            return __self._replace(owner, *args)
        local.n_calls += 1
        if local.n_calls > _MAX_CALLS_IN_CALLS:
            raise TemplateError(f"the chat template nests more than {_MAX_CALLS_IN_CALLS} calls")
        result = super().call(__context, __obj, *args, **kwargs)
        local.n_calls -= 1  # not after an exception, because that ends the rendering
        return __self.meter.made(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic, with the size of the result foreseen."""
        if operator == "%" and isinstance(left, str):
            self._allow_format(left, right)
        elif operator in ("*", "**"):
            self._allow_product(operator, left, right)
        for value in (left, right):
            if operator in OPERATORS and not isinstance(value, OPERATORS[operator]):
                raise TypeError(f"{operator} of a {type(value).__name__}")
        return self.meter.made(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """obj[argument]; a tuple as a key is hashed, and so traversed."""
        self.meter.bound(argument)
        return super().getitem(obj, argument)

    def _allow_product(self, operator: str, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * max(right, 1)
            self.meter.allow_bits(bits)
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                self.meter.allow(SLOT_UNITS * len(sequence) * max(times, 0))

    def _allow_format(self, pattern: str, values: object) -> None:
        if _WIDE_FIELD.search(pattern):
            raise TemplateError(f"the chat template formats with a width or *: {pattern[:80]!r}")
        units = self.meter.bound(values, printable=True)
        n_fields = pattern.count("{") + pattern.count("%")
        self.meter.allow(len(pattern) + n_fields * (units + _FIELD_UNITS))

    def _own_filters(self) -> dict[str, Callable[..., Any]]:
        """Filters whose jinja2 versions could produce more than the size of their arguments."""

        def escape(value: object) -> str:
            return str(markupsafe.escape(self.meter.text(value)))

        def percent(pattern: object, *args: Any, **kwargs: Any) -> str:
            text = self.meter.text(pattern)
            self._allow_format(text, kwargs or args)
            return text % (kwargs or args)

        return {
            "e": escape,
            "escape": escape,
            "format": percent,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "safe": str,
            "string": str,
            "tojson": self._tojson,
        }

    def _join(self, values: Any, d: str = "", attribute: str | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        texts = [self.meter.text(value) for value in values]
        self.meter.allow(len(d) * len(texts))
        return str(self.meter.made(d.join(texts)))

    def _replace(self, value: object, old: str, new: str, count: int | None = None) -> str:
        text = self.meter.text(value)
        self.meter.allow(len(text) + text.count(old) * len(new))
        return str(self.meter.made(text.replace(old, new, -1 if count is None else count)))

    def _indent(
        self, value: object, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        margin = " " * min(width, _MAX_INDENT) if isinstance(width, int) else width[:_MAX_INDENT]
        lines = self.meter.text(value).split("\n")
        self.meter.allow(SLOT_UNITS * len(lines) * len(margin))
        padded = [margin + line if line or blank else line for line in lines]
        return "\n".join([padded[0] if first else lines[0], *padded[1:]])

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= _MAX_INDENT:
            raise TemplateError(f"tojson: indent must be 0..{_MAX_INDENT}, got {indent}")
        encoder = json.JSONEncoder(
            ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
        )
        separator_units = sum(map(len, separators or ()))
        self.meter.allow(separator_units * self.meter.bound(value, printable=True))
        text = "".join(self.meter.drained(encoder.iterencode(value)))
        if ensure_ascii:  # all but lone surrogates, which chat.py marks places with
            return _NOT_ASCII.sub(self._ascii, text)
        return text

    def _ascii(self, match: re.Match[str]) -> str:
        self.meter.spend(len(match[0]))
        return json.dumps(match[0])[1:-1]

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        pairs = args and not isinstance(args[0], dict)
        return self.meter_dict(args[0]) | kwargs if pairs else dict(*args, **kwargs)

    # What `write_meter` puts into the template.  Public names: the sandbox hides others.

    def meter_step(self) -> None:
        """One more iteration or macro call."""
        self.meter.spend()

    def meter_literal(self, value: Any) -> Any:
        """A list, tuple or dict written in the template; its slots were counted as a result."""
        return value

    def meter_dict(self, pairs: Any) -> dict[Any, Any]:
        """A dict written in the template, as (key, value) pairs: keys are hashed, and so walked."""
        pairs = [(key, value) for key, value in pairs]
        self.meter.hashed([key for key, _ in pairs])
        return dict(pairs)

    def meter_operand(self, value: Any) -> Any:
        """An operand of a comparison or slice: `call` has refused it if it is too large."""
        return value

    def meter_concat(self, *values: Any) -> str:
        """The operands of ~."""
        return "".join([self.meter.text(value) for value in values])
