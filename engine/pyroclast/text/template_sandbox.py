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

_MAX_INTEGER_BITS = 4096
_MAX_INDENT = 64
_FILTERS = """abs capitalize count d default dictsort e escape first float format groupby indent int
    items join last length list lower map max min reject rejectattr replace reverse safe select
    selectattr sort string title tojson trim truncate unique upper wordcount"""
_STR_METHODS = """capitalize casefold count endswith find index isalnum isalpha isascii isdecimal
    isdigit islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix
    removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
    swapcase title upper"""
_METHODS: tuple[tuple[type, str], ...] = (
    (str, _STR_METHODS),
    (dict, "get items keys values"),
    (list, "count index"),
    (tuple, "count index"),
    (int, ""),
    (float, ""),
    (bytes, ""),
    (GeneratorType, ""),
)
_ALLOWED_METHODS = tuple((kind, frozenset(names.split())) for kind, names in _METHODS)
_NOT_ASCII = re.compile("[\u0080-\ud7ff\ue000-\U0010ffff]")
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)|\{[^{}]*:[^{}]*(?:\d{4}|\{)")


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates with calls of the meter in them.  `start_meter`, before each rendering,
    sets the calling thread's meter, so several threads can render at once."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

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
        for name in _FILTERS.split():
            self.filters[name] = self._metered(filters[name], printable=True)
        tests: dict[str, Any] = dict(self.tests)
        for name, test in tests.items():
            self.tests[name] = self._metered(test, printable=name in ("lower", "upper"))
        del self.globals["lipsum"]

    @property
    def meter(self) -> Meter:
        """The calling thread's meter."""
        meter: Meter = self._local.meter
        return meter

    def start_meter(self, input_units: int) -> None:
        """A fresh meter for what the calling thread renders next."""
        self._local.meter = Meter(input_units)

    def compile_metered(self, source: str) -> Template:
        """The template of a source text, with calls of the meter in it."""
        tree = self.parse(source)
        write_meter(tree)
        return self.from_string(tree)

    def _metered(self, function: Callable[..., Any], printable: bool) -> Callable[..., Any]:
        @functools.wraps(function)  # also copies the mark by which jinja2 passes the context first
        def metered(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._admit(args, kwargs, printable)
            return self.meter.made(function(*args, **kwargs))

        return metered

    def _admit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], printable: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a filter, test or call: generators made into lists, sizes checked."""
        meter = self.meter
        args = tuple(meter.drained(a) if isinstance(a, GeneratorType) else a for a in args)
        for value in (*args, *kwargs.values()):
            if not isinstance(value, Context | EvalContext | Environment):
                meter.bound(value, printable=printable)
        return args, kwargs

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allows only those methods of builtin types that cannot multiply their input."""
        for kind, allowed in _ALLOWED_METHODS:
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

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
        owner = getattr(__obj, "__self__", None)
        args, kwargs = __self._admit(args, kwargs, isinstance(owner, str))
        if isinstance(owner, str) and __obj.__name__ == "join":
            return __self._join(args[0], owner)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            return __self._replace(owner, *args)
        return __self.meter.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """+ * ** %, with the size of the result checked first."""
        if operator == "%" and isinstance(left, str):
            self._allow_format(left, right)
        elif operator in ("*", "**"):
            self._allow_product(operator, left, right)
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
            if bits > _MAX_INTEGER_BITS:
                raise TemplateError(f"the chat template computes a number of {bits} bits")
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                self.meter.allow(SLOT_UNITS * len(sequence) * max(times, 0))

    def _allow_format(self, pattern: str, values: object) -> None:
        if _WIDE_FIELD.search(pattern):
            raise TemplateError(f"the chat template formats with a width or *: {pattern[:80]!r}")
        units = self.meter.bound(values, printable=True)
        self.meter.allow(len(pattern) + (pattern.count("{") + pattern.count("%")) * units)

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
        if ensure_ascii:  # all except lone surrogates, which chat.py uses as marks
            return _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text)
        return text

    # What `write_meter` puts into the template.  Public names: the sandbox hides others.

    def meter_step(self) -> None:
        """One more iteration or macro call."""
        self.meter.spend()

    def meter_literal(self, value: Any) -> Any:
        """A list, tuple or dict written in the template; its slots were counted as a result."""
        return value

    def meter_dict(self, pairs: Any) -> Any:
        """A dict written in the template, as (key, value) pairs: keys are hashed, and so walked."""
        return dict(pairs)

    def meter_operand(self, value: Any) -> Any:
        """An operand of a comparison or slice: `call` has refused it if it is too large."""
        return value

    def meter_concat(self, *values: Any) -> str:
        """The operands of ~."""
        return "".join([self.meter.text(value) for value in values])
