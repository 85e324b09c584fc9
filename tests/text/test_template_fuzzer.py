"""The generator of templates knows all that the sandbox has, and each of its operations alone, on
values as large as a template can make them, ends in time and memory."""

from __future__ import annotations

import contextlib
import random
import resource
import time

import pytest
from jinja2 import nodes

from pyroclast.errors import TemplateError
from pyroclast.text import template_meter
from pyroclast.text import template_table as table
from pyroclast.text.chat import ChatTemplate
from pyroclast.text.template_sandbox import MeteredEnvironment
from template_grammar import BINARY, SMALL_VALUES, VALUES, Templates

N_TEMPLATES = 3000
MESSAGES = [{"role": "user", "content": "hi"}]
NAMERS = ("map", "select", "reject", "selectattr", "rejectattr")  # take the name of another


@pytest.fixture(scope="module")
def made() -> list[nodes.Node]:
    """Every node of many random templates."""
    environment, templates = MeteredEnvironment(), Templates(0, SMALL_VALUES)
    found: list[nodes.Node] = []
    for _ in range(N_TEMPLATES):
        tree = environment.parse(templates.next())
        found += [tree, *tree.find_all(nodes.Node)]
    return found


def of(made: list[nodes.Node], kind: type[nodes.Node], name: str) -> set[str]:
    """What the nodes of a kind have as that attribute."""
    return {getattr(node, name) for node in made if isinstance(node, kind)}


def test_every_filter_and_test_is_generated(made: list[nodes.Node]) -> None:
    assert set(table.FILTERS) <= of(made, nodes.Filter, "name")
    passed = {
        node.args[0].value
        for node in made
        if isinstance(node, nodes.Filter) and node.name in NAMERS and node.args
        if isinstance(node.args[0], nodes.Const)
    }
    assert set(table.TESTS) <= of(made, nodes.Test, "name") | passed


def test_every_attribute_and_global_is_generated(made: list[nodes.Node]) -> None:
    allowed = {name for _, names in table.ATTRIBUTES for name in names}
    assert allowed <= of(made, nodes.Getattr, "attr")
    called = [node.node for node in made if isinstance(node, nodes.Call)]
    assert set(table.GLOBALS) <= of(called, nodes.Name, "name")


def test_every_operator_and_node_is_generated(made: list[nodes.Node]) -> None:
    assert {*table.OPERATORS, "%"} <= set(BINARY)
    compared = {"eq", "ne", "lt", "lteq", "gt", "gteq", "in", "notin"}
    assert compared <= of(made, nodes.Operand, "op")
    ours = {"ExprStmt", "Scope"}  # no tag makes them; the sandbox puts them there
    assert {kind.__name__ for kind in table.NODES} - ours <= {type(node).__name__ for node in made}


OPERATIONS = {
    **{f"| {name}": f"{{0}} | {name}({{1}})" for name in table.FILTERS},
    **{f"is {name}": f"[{{0}}] | select('{name}', {{1}}) | list" for name in table.TESTS},
    **{
        f".{name}": f"({{0}}).{name}({{1}})"
        for name in sorted({*table.STR_METHODS, *table.DICT_METHODS, *table.LIST_METHODS})
    },
    **{name: f"({{0}}) {name} ({{1}})" for name in BINARY},
    **{f"{name}()": f"{name}({{0}}, {{1}})" for name in table.GLOBALS},
    "[]": "({0})[{1}]",
    "[:]": "({0})[{1}:]",
    "-": "-({0})",
    "print": "{0} ~ {1}",
}
N_PAIRS = 8
OWNERS = [name for name in VALUES if name not in "uzx"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_ends_on_large_values(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_s, slack_s = 0.5, 1.0  # making the values takes some of it
    monkeypatch.setattr(template_meter, "_CPU_SECONDS", limit_s)
    dice = random.Random(operation)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(N_PAIRS):
        one, other = dice.choice(OWNERS), dice.choice([*OWNERS, "1", "'a'"])
        names = {name for name in (one, other) if name in VALUES}
        sets = "".join(f"{{% set {name} = {VALUES[name]} %}}" for name in sorted(names))
        source = f"{sets}{{{{ ({OPERATIONS[operation].format(one, other)}) is none }}}}"
        for _ in range(3):  # some virtual machines count the time that others take from them
            start_s = time.thread_time()
            with contextlib.suppress(TemplateError):
                ChatTemplate(source).render(MESSAGES)
            taken_s = time.thread_time() - start_s
            if taken_s < limit_s + slack_s:
                break
        assert taken_s < limit_s + slack_s, source
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 512 << 10
