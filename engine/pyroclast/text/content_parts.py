"""A message's content as a list of parts, the form of the OpenAI API.

Some templates walk over the parts; others take the content for a string, and would print the list
or fail on it.  For those, the parts' texts are joined by line breaks, as vLLM and llama.cpp do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import nodes

from pyroclast.errors import RequestError

_TESTS_OF_A_FORM = frozenset(["iterable", "mapping", "sequence", "string"])
_TEXT_TYPES = (None, "text", "input_text", "output_text")


def takes_parts(tree: nodes.Template) -> bool:
    """Whether a template walks over a message's content, indexes it, or tests what form it has."""
    names = {"content"}
    n_before = 0
    while len(names) > n_before:  # until no assignment names it again
        n_before = len(names)
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
                names.add(assignment.target.name)
    return (
        any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))
        or any(
            test.name in _TESTS_OF_A_FORM and _is_content(test.node, names)
            for test in tree.find_all(nodes.Test)
        )
        or any(
            isinstance(item.arg, nodes.Const)
            and isinstance(item.arg.value, int)
            and _is_content(item.node, names)
            for item in tree.find_all(nodes.Getitem)
        )
    )


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.CondExpr):
        return _is_content(node.expr1, names) or _is_content(node.expr2, names)
    if isinstance(node, nodes.Or | nodes.And):
        return _is_content(node.left, names) or _is_content(node.right, names)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):  # .get("content")
        first = node.args[0] if node.args else None
        return node.node.attr == "get" and _is_constant(first, "content")
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return _is_constant(node.arg, "content")
    return isinstance(node, nodes.Name) and node.name in names


def _is_constant(node: nodes.Node | None, value: str) -> bool:
    return isinstance(node, nodes.Const) and node.value == value


def as_text(content: Sequence[Any], where: str) -> str:
    """The parts' texts, joined by line breaks; a part that is no text is a RequestError."""
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) and kind in _TEXT_TYPES else part
        if not isinstance(text, str):
            raise RequestError(
                f"{where}[{i}] is a part of type {kind!r}; this model's chat template takes text: "
                "a str, or parts such as {'type': 'text', 'text': ...}"
            )
        texts.append(text)
    return "\n".join(texts)
