"""Random chat templates that try to be slow: every filter, test, method, operator and global of the
sandbox (and some that it refuses), on values as large as it lets them become."""

from __future__ import annotations

import random
from collections.abc import Mapping

from jinja2.defaults import DEFAULT_FILTERS

from pyroclast.text.template_table import ATTRIBUTES, FILTERS, GLOBALS, STR_METHODS, TESTS

VALUES = {
    "a": "'a' * 400000 ~ 'a' * 400000",
    "b": "'a' * 5000 ~ 'b' ~ 'a' * 5000",
    "c": "'é中' * 200000",
    "w": "' a\n' * 150000",
    "f": "'{0}%s' * 2000",
    "q": "'{:' * 100000",
    "n": "(2 ** 2000) * (2 ** 2000)",
    "h": "('f' * 900) | int(base=16)",
    "x": "1.5",
    "l": "range(99999) | list",
    "m": "range(0, 2305843009213693951 * 3000, 2305843009213693951) | list",
    "s": "['a' * 300000 ~ 'b'] * 100",
    "t": "[[[['a' * 9, 1]] * 9] * 9] * 9",
    "d": "{'a': 1, 'b': [1, 2], 'c': 'x' * 100000}",
    "g": "[{'a': 'x' * 1000}, {'a': 'y' * 1000}] * 500",
    "p": "('a.' * 100000)",
    "u": "none",
    "z": "messages",
}
# The same names with values that are cheap: a thousand templates a second instead of four.
SMALL_VALUES = VALUES | {
    "a": "'a' * 40",
    "b": "'aa' ~ 'b' ~ 'aa'",
    "c": "'é中' * 20",
    "w": "' a\n' * 15",
    "f": "'{0}%s' * 2",
    "q": "'{:' * 3",
    "h": "('f' * 9) | int(base=16)",
    "l": "range(9) | list",
    "m": "range(0, 99, 7) | list",
    "s": "['a' * 30 ~ 'b'] * 10",
    "t": "[[['a', 1]] * 3] * 2",
    "d": "{'a': 1, 'b': [1, 2], 'c': 'x' * 10}",
    "g": "[{'a': 'x'}, {'a': 'y'}] * 5",
    "p": "'a.' * 10",
}
_OTHER_METHODS = [n for n in dir(str) + dir(list) + dir(dict) + dir(int) if n[0] != "_"]
_METHODS = [*STR_METHODS, *STR_METHODS, *STR_METHODS, *_OTHER_METHODS]
BINARY = (
    "+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "and", "or", "in",
    "not in",
)  # fmt: skip
_GLOBALS = (*GLOBALS, "raise_exception", "strftime_now")
# Owners whose attributes are neither methods nor keys.
_OWNERS = {"LoopContext": "loop", "Cycler": "cycler(a, b)", "Macro": "k", "tuple": "(a, 1)"}
_ATTRIBUTES = [
    (_OWNERS[kind.__name__], name)
    for kind, names in ATTRIBUTES
    if kind.__name__ in _OWNERS
    for name in sorted(names)
]
_NAMED = ("base=16", "base=2", "attribute='a'", "default=a", "d=a", "width=999", "first=true")
_FILTERS = [*FILTERS, *FILTERS, *sorted(DEFAULT_FILTERS)]
_TESTS = [name for name in TESTS if name.isalpha()]
_PICKING = ("select", "reject")  # take the name of any test, also of those that are signs
_STATEMENTS = (
    "{{% with v = {0} %}}{{{{ v }}}}{{% endwith %}}",
    "{{% filter upper %}}{{{{ {0} }}}}{{% endfilter %}}",
    "{{% macro c() %}}a{{{{ caller() }}}}{{% endmacro %}}{{% call c() %}}{0}{{% endcall %}}",
    "{{% block b %}}{{{{ {0} }}}}{{% endblock %}}",
    "{{% for i in {0} %}}{{% if i %}}{{% continue %}}{{% endif %}}{{% break %}}{{% endfor %}}",
    "{{% for i in l recursive %}}{{{{ loop(i) if {0} else loop.{1} }}}}{{% endfor %}}",
)
_TEXTS = ("a", "a", "b", "c", "w", "p", "'a'", "'b'")


class Templates:
    """`next()` makes the next template of a seed; values: VALUES or SMALL_VALUES."""

    def __init__(self, seed: int, values: Mapping[str, str] = VALUES) -> None:
        self._random = random.Random(seed)
        self._values = values

    def next(self) -> str:
        pick = self._random
        body = "".join([self._statement() for _ in range(pick.randint(1, 3))])
        names = [name for name in VALUES if f"{name}" in body]
        return "".join([f"{{% set {n} = {self._values[n]} %}}" for n in names]) + body

    def _statement(self) -> str:
        value, kind = self._value(3), self._random.randrange(9)
        if kind == 8:
            name = self._random.choice([name for owner, name in _ATTRIBUTES if owner == "loop"])
            return self._random.choice(_STATEMENTS).format(value, name)
        if kind == 0:
            return f"{{% for i in {value} %}}{{{{ {self._value(2)} }}}}{{% endfor %}}"
        if kind == 1:
            grow = f"{{% set ns.v = {self._value(2, ('ns.v', 'a', 'n', 'l', 'd'))} %}}"
            return (
                f"{{% set ns = namespace(v={value}) %}}{{% for i in range(999) %}}{grow}"
                "{% endfor %}{{ ns.v is string }}"
            )
        if kind == 2:
            return (
                f"{{% macro k(v) %}}{{{{ {value} }}}}{{{{ k(v) }}}}{{% endmacro %}}{{{{ k(a) }}}}"
            )
        if kind == 3:
            return f"{{% set v %}}{{{{ {value} }}}}{{% endset %}}{{{{ v | length }}}}"
        return f"{{{{ ({value}) is string }}}}" if kind < 6 else f"{{{{ {value} }}}}"

    def _value(self, depth: int, names: tuple[str, ...] = tuple(VALUES)) -> str:
        pick = self._random
        if depth == 0 or pick.random() < 0.1:
            return pick.choice([*names, *names, "1", "''", "'a'", "3.5", "{}", "[]", "10 ** 9"])
        left, right = self._value(depth - 1, names), self._value(depth - 1, names)
        kind = pick.randrange(8)
        if kind == 7:
            owner, attribute = pick.choice(_ATTRIBUTES)
            return pick.choice(
                [f"{owner}.{attribute}", f"(not {left})", f"+{left}", f"({left} if {right} else 1)"]
            )
        if kind == 0:
            return f"({left} {pick.choice(BINARY)} {right})"
        if kind == 1:
            owner = left if pick.random() < 0.4 else pick.choice(_TEXTS)
            return f"({owner}).{pick.choice(_METHODS)}({self._arguments(depth)})"
        if kind == 2:
            name = pick.choice(_FILTERS)
            some = f"'{pick.choice(_FILTERS)}', " if name == "map" else ""
            if name in _PICKING:
                some = f"'{pick.choice(list(TESTS))}', "
            return f"({left} | {name}({some}{self._arguments(depth)}))"
        if kind == 3:
            return f"({left} is {pick.choice(_TESTS)}({self._arguments(depth)}))"
        if kind == 4:
            return f"{pick.choice(_GLOBALS)}({self._arguments(depth)})"
        if kind == 5:
            return pick.choice(
                [f"[{left}, {right}]", f"({left}, {right})", f"{{{left}: {right}}}", f"-{left}"]
            )
        return f"({left})[{right}:]" if pick.random() < 0.5 else f"({left})[{right}]"

    def _arguments(self, depth: int) -> str:
        pick = self._random
        values = [
            pick.choice(_TEXTS) if pick.random() < 0.4 else self._value(depth - 1)
            for _ in range(pick.randint(0, 2))
        ]
        return ", ".join(values + ([pick.choice(_NAMED)] if pick.random() < 0.15 else []))
