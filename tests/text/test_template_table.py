"""The table of what templates may use is complete, and holds against random templates."""

import contextlib
import time

import jinja2
import pytest
from jinja2 import defaults, nodes

from pyroclast.errors import TemplateError
from pyroclast.text import template_meter
from pyroclast.text import template_table as table
from pyroclast.text.chat import ChatTemplate
from template_grammar import Templates

REFUSED_METHODS = {  # of the types that JSON values have
    "append clear copy extend fromkeys insert pop popitem remove reverse setdefault sort update": (
        "change the value, or copy it unmetered"
    ),
    "center expandtabs ljust rjust translate zfill": "pad or multiply text",
    "encode maketrans": "make bytes and tables, which nothing takes",
    "isidentifier isprintable": "no template in use has them",
    "format format_map": "are wrapped: the size of the result is foreseen",
}


def words(*groups):
    return {word for group in groups for word in " ".join(group).split()}


def test_each_filter_test_global_and_node_of_jinja_is_decided():
    refused = words(table.REFUSED_FILTERS)
    assert not refused & set(table.FILTERS)
    assert refused | set(table.FILTERS) >= set(defaults.DEFAULT_FILTERS)
    assert set(table.TESTS) >= set(defaults.DEFAULT_TESTS)
    assert set(table.GLOBALS) | set(table.REFUSED_GLOBALS) >= set(defaults.DEFAULT_NAMESPACE)
    known = {name for name, kind in vars(nodes).items() if is_node(kind)}
    assert words(table.REFUSED_NODES) | {kind.__name__ for kind in table.NODES} >= known
    assert {*table.OPERATORS, "%"} == set(jinja2.sandbox.SandboxedEnvironment.default_binop_table)


def is_node(kind):
    return isinstance(kind, type) and issubclass(kind, nodes.Node) and not kind.abstract


def test_each_method_is_decided():
    allowed = {*table.STR_METHODS, *table.DICT_METHODS, *table.LIST_METHODS}
    refused = words(REFUSED_METHODS)
    public = {name for kind in (str, dict, list, tuple) for name in dir(kind) if name[0] != "_"}
    assert allowed | refused == public
    assert not allowed & refused


@pytest.mark.parametrize(
    "name", [word for word in sorted(words(REFUSED_METHODS)) if "format" not in word]
)
def test_a_refused_method_is_refused(name):
    kind = next(kind for kind in ("''", "{}", "[]") if hasattr(eval(kind), name))
    with pytest.raises(TemplateError, match="sandbox does not allow"):
        ChatTemplate(f"{{{{ ({kind}).{name} }}}}").render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("seed", range(8))
def test_random_templates_end_in_time(seed, monkeypatch):
    limit, slack = 0.1, 0.7  # one operation may take some 0.2 s, and machines are busy
    monkeypatch.setattr(template_meter, "_CPU_SECONDS", limit)
    templates = Templates(seed)
    for _ in range(8):
        source = templates.next()
        start = time.thread_time()
        with contextlib.suppress(TemplateError):
            ChatTemplate(source).render([{"role": "user", "content": "hi"}])
        assert time.thread_time() - start < limit + slack, source
