"""A Jinja environment for the templates of downloaded models, which strangers wrote.

jinja2's immutable sandbox keeps a template away from Python's internals, but bounds neither time
nor memory.  Here every loop iteration, macro, operator, comparison, filter, test, call and output
goes through a `Meter` (template_meter.py).  So loops in loops, `"a" * 10**9`, a string doubled
sixty times, macros that call themselves and nested lists that print exponentially soon end in a
TemplateError.  Only the filters and methods that chat templates use exist.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import GeneratorType
from typing import Any, NoReturn

from jinja2 import Environment, Template, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import LoopControlExtension
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyroclast.errors import TemplateError
from pyroclast.text.template_filters import OwnFilters, allow_format
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
from pyroclast.text.template_text import (
    METHODS,
    TemplateText,
    added,
    filled,
    formatted,
    joined,
    literal,
    repeated,
)

_MAX_CALLS_IN_CALLS = 200  # macros and recursive loops; those in use nest some ten deep
_VARIABLES_AROUND = ("_loop_vars", "_block_vars")
_CONTEXTS = (Context, EvalContext, Environment)  # what jinja2 itself passes to filters and tests


class _LiteralCode(CodeGenerator):
    """Python code in which the template's own strings are TemplateTexts."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802
        if not isinstance(node.value, str):
            super().visit_Const(node, frame)
            return
        assert isinstance(self.environment, MeteredEnvironment)
        literals = self.environment.literals
        self.write(f"environment.literals[{len(literals)}]")
        literals.append(literal(node.value))


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates with calls of the meter in them.  `start_meter`, before each rendering,
    sets the calling thread's meter, so several threads can render at once."""

    intercepted_binops = frozenset((*OPERATORS, "%"))
    code_generator_class = _LiteralCode
    concat = staticmethod(joined)  # of outputs, macros and blocks

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # else constant expressions are evaluated, unmetered, at compile time
            finalize=pass_context(lambda _context, value: self.meter.text(value)),
            extensions=[LoopControlExtension, GenerationTag],
        )
        self.literals: list[TemplateText] = []
        self._local = threading.local()
        self._own = OwnFilters(self, lambda: self.meter)
        filters: dict[str, Any] = dict(self.filters) | self._own.table()
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
        if super().wrap_str_format(value) is None:
            return None
        pattern, of_map = value.__self__, value.__name__ == "format_map"

        def fill(text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
            wrapped = super(MeteredEnvironment, self).wrap_str_format(getattr(text, value.__name__))
            assert wrapped is not None
            return wrapped(*args, **kwargs)

        def metered(*args: Any, **kwargs: Any) -> str:
            allow_format(self.meter, pattern, (args, kwargs))
            named = args[0] if of_map and args and isinstance(args[0], dict) else kwargs
            return filled(pattern, args, named, lambda text: fill(text, args, kwargs))

        return metered

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call from the template, with its arguments and its result metered."""
        owner, local = getattr(__obj, "__self__", None), __self._local
        # What jinja2 passes on of the variables around; only its own call() takes it.
        around = {name: kwargs.pop(name) for name in _VARIABLES_AROUND if name in kwargs}
        args, kwargs = __self._admit(args, kwargs, isinstance(owner, str))
        if isinstance(owner, str | list | tuple):
            __self.meter.bound(owner)
            methods = STR_METHODS if isinstance(owner, str) else LIST_METHODS
            __self.meter.allow_cost(methods[__obj.__name__], owner, (*args, *kwargs.values()))
        if isinstance(owner, str) and __obj.__name__ == "join":
            return __self._own.join(args[0], owner)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            return __self._own.replace(owner, *args)
        if isinstance(owner, TemplateText) and __obj.__name__ in METHODS:
            return __self._own.method(owner, __obj.__name__, args, kwargs)
        local.n_calls += 1
        if local.n_calls > _MAX_CALLS_IN_CALLS:
            raise TemplateError(f"the chat template nests more than {_MAX_CALLS_IN_CALLS} calls")
        result = super().call(__context, __obj, *args, **kwargs, **around)
        local.n_calls -= 1  # not after an exception, because that ends the rendering
        return __self.meter.made(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic, with the size of the result foreseen."""
        if operator == "%" and isinstance(left, str):
            allow_format(self.meter, left, right)
        elif operator in ("*", "**"):
            self._allow_product(operator, left, right)
        for value in (left, right):
            if operator in OPERATORS and not isinstance(value, OPERATORS[operator]):
                raise TypeError(f"{operator} of a {type(value).__name__}")
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return self.meter.made(added(left, right))
        if operator == "*" and isinstance(left, str) and isinstance(right, int):
            return self.meter.made(repeated(left, right))
        if operator == "*" and isinstance(left, int) and isinstance(right, str):
            return self.meter.made(repeated(right, left))
        if operator == "%" and isinstance(left, str):
            return self.meter.made(formatted(left, right))
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
        return joined([self.meter.text(value) for value in values])
