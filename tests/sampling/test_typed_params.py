"""The types of `SamplingParams`: what help() and type checkers show is what it takes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc

from pyroclast.sampling import params as module
from pyroclast.sampling.params import SamplingParams


def test_signature_names_every_field_with_its_default() -> None:
    signature = inspect.signature(SamplingParams)
    given = {name: each.default for name, each in signature.parameters.items()}
    assert given == SamplingParams().as_dict()
    assert all(
        each.kind is inspect.Parameter.KEYWORD_ONLY for each in signature.parameters.values()
    )


def test_type_checkers_see_the_signature() -> None:
    tree = ast.parse(inspect.getsource(module))
    [init] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    typed = {arg.arg: ast.unparse(arg.annotation) for arg in init.args.kwonlyargs if arg.annotation}
    shown = inspect.signature(SamplingParams).parameters
    assert typed == {name: each.annotation for name, each in shown.items()}


def test_help_explains_every_field() -> None:
    text = pydoc.plain(pydoc.render_doc(SamplingParams))
    described = text.partition("Methods defined here")[0]
    for field in dataclasses.fields(SamplingParams):
        assert any(
            line.strip(" |").startswith(field.name) or f", {field.name}:" in line
            for line in described.splitlines()
        ), field.name
    assert "*args" not in described
