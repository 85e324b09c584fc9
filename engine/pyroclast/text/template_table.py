"""What a chat template may use, and what is checked before each use; all else is refused.

The meter reads the clock between operations and cannot stop one that is under way, so the cost of
every operation is bounded by the sizes of its operands.  `Cost` names the four bounds.
tests/text/test_template_table.py fails when Jinja has a filter, test, global, operator, syntax node
or method that neither list here names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from jinja2 import Undefined, nodes
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Cycler, Namespace


class Cost(Enum):
    """What an operation may cost, given an owner or first argument and further arguments."""

    LINEAR = "the sum of their sizes"
    ITEMS = "a list with one slot for each character"
    PAIRS = "the product of their sizes"
    EACH = "as ITEMS, and the number of items times the size of the further arguments"
    HASHED = "as ITEMS, and the items' number times their size: numbers can be made to collide"
    NUMBERS = "constant, for numbers; a string would be formatted by %"


def _table(**names: str) -> Mapping[str, Cost]:
    return {name: Cost[cost] for cost, line in names.items() for name in line.split()}


# Searches from the left take linear time (two-way search, since CPython 3.10); those from the right
# and strip(characters) take the product.
STR_METHODS = _table(
    LINEAR="""capitalize casefold count endswith find index isalnum isalpha isascii isdecimal
        isdigit islower isnumeric isspace istitle isupper join lower partition removeprefix
        removesuffix replace startswith swapcase title upper""",
    ITEMS="split splitlines",
    PAIRS="lstrip rfind rindex rpartition rsplit rstrip strip",
)
DICT_METHODS = _table(LINEAR="get items keys values")
LIST_METHODS = _table(EACH="count index")
_LOOP = """changed cycle depth depth0 first index index0 last length nextitem previtem revindex
    revindex0"""
# The attributes of each type, in this order; no other object has any.
ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(STR_METHODS)),
    (dict, frozenset(DICT_METHODS)),
    (list, frozenset(LIST_METHODS)),
    (tuple, frozenset([*LIST_METHODS, "grouper", "list"])),  # the last two: the filter groupby's
    (Cycler, frozenset(["current", "next", "reset"])),
    (Macro, frozenset(["arguments", "caller", "catch_kwargs", "catch_varargs", "name"])),
    (
        LoopContext,
        frozenset(_LOOP.split()),
    ),
)


def is_listed(obj: object, attribute: str) -> bool:
    """Whether a template may read this attribute.  A namespace has those that it was given."""
    for kind, allowed in ATTRIBUTES:
        if isinstance(obj, kind):
            return attribute in allowed
    return isinstance(obj, Namespace) and not attribute.startswith("_")


FILTERS = _table(
    LINEAR="""abs capitalize count d default dictsort e escape first float format indent int items
        join last length lower replace reverse safe string tojson truncate upper""",
    ITEMS="list title wordcount",
    PAIRS="trim",
    EACH="groupby map max min reject rejectattr select selectattr sort",
    HASHED="unique",
)
# These pass values on and print none, so the values may be what does not print, as a namespace in
# a list of messages.
_PASSING = """count d default dictsort first groupby items last length list map max min reject
    rejectattr reverse select selectattr sort unique"""
PASSING_FILTERS = frozenset(_PASSING.split())
REFUSED_FILTERS = {
    "attr": "reaches attributes by a computed name",
    "batch center slice": "pad to a length that the template names",
    "filesizeformat forceescape striptags urlencode urlize xmlattr": "are for web pages",
    "pprint": "prints any object",
    "random": "makes a prompt that is another one each time",
    "round": "raises 10 to a power that the template names",
    "sum": "adds anything to anything, unmetered",
    "wordwrap": "searches with the square of a line's length",
}

TESTS = _table(
    LINEAR="""boolean callable defined eq equalto == escaped false filter float ge >= gt greaterthan
        > in integer iterable le <= lower lt lessthan < mapping ne != none number sameas sequence
        string test true undefined upper""",
    NUMBERS="divisibleby even odd",
)
GLOBALS = {
    "cycler": "keeps its arguments",
    "dict": "ours: keys are checked for collisions",
    "joiner": "keeps one string",
    "namespace": "has keys that are strings",
    "range": "bounded by jinja2 to 100,000 items",
}
REFUSED_GLOBALS = {"lipsum": "makes text without end"}

# What the operators take.  Undefined is among them so that it can say which name is missing.
_NUMBER: tuple[type, ...] = (int, float, Undefined)
_SEQUENCE: tuple[type, ...] = (str, list, tuple)
OPERATORS: dict[str, tuple[type, ...]] = {
    "+": (*_NUMBER, *_SEQUENCE),
    "-": _NUMBER,  # a difference of key views would build sets from anything
    "*": (*_NUMBER, *_SEQUENCE),
    "/": _NUMBER,
    "//": _NUMBER,
    "**": _NUMBER,
}  # and %, whose right side may be anything that a left side of text prints

_NODES = """Add And Assign AssignBlock Block Break Call CallBlock Compare Concat CondExpr Const
    Continue Dict Div ExprStmt Filter FilterBlock FloorDiv For Getattr Getitem If Keyword List Macro
    Mod Mul Name Neg Not NSRef Operand Or Output Pair Pos Pow Scope Slice Sub Template TemplateData
    Test Tuple With"""
NODES: tuple[type[nodes.Node], ...] = tuple(getattr(nodes, name) for name in _NODES.split())
REFUSED_NODES = {
    "Extends FromImport Import Include": "load other templates; a model has one",
    "EvalContextModifier MarkSafe MarkSafeIfAutoescape ScopedEvalContextModifier": (
        "switch escaping for web pages on, which multiplies text"
    ),
    "ContextReference DerivedContextReference EnvironmentAttribute ExtensionAttribute "
    "ImportedName InternalName OverlayScope": "exist for extensions; no template spells them",
}
