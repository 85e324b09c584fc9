"""Inserts calls of the meter into a chat template's syntax tree before it is compiled.

Each call goes through `MeteredEnvironment.call`, which refuses arguments that are too
large and counts the result.
"""

from __future__ import annotations

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from pyroclast.text.template_meter import MAX_INTEGER_BITS
from pyroclast.text.template_table import NODES

# The largest in use have some 1,300 nodes.  Compiling takes more than linear time in some of them.
_MAX_NODES = 12_000


def write_meter(tree: nodes.Template) -> None:
    """Put calls of MeteredEnvironment's meter_* methods where a template can loop or grow."""
    for i, node in enumerate(tree.find_all(nodes.Node)):
        if i == _MAX_NODES:
            raise TemplateSyntaxError(f"a template of more than {_MAX_NODES} parts", node.lineno)
        if type(node) not in NODES:
            refused = f"a chat template may not use {type(node).__name__}"
            raise TemplateSyntaxError(refused, node.lineno)
    _Metering().visit(tree)


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks the model's own words in templates made for
    training; here the body is rendered as if the marks were not there."""

    tags = {"generation"}  # noqa: RUF012 - the base class's type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metering(NodeTransformer):
    def _call(self, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name, lineno=line)
        return nodes.Call(function, arguments, [], None, None, lineno=line)

    def _stepped(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        step = self._call("meter_step", [], node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _stepped  # noqa: N815 - names that jinja2 calls

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)  # unlike data, goes through finalize

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, int) and node.value.bit_length() > MAX_INTEGER_BITS:
            refused = f"a number of {node.value.bit_length()} bits; at most {MAX_INTEGER_BITS}"
            raise TemplateSyntaxError(refused, node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("meter_concat", node.nodes, node.lineno)

    def _literal(self, node: nodes.List | nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return self._call("meter_literal", [node], node.lineno)

    visit_List = visit_Tuple = _literal  # noqa: N815

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        pairs: list[nodes.Expr] = [
            nodes.Tuple([pair.key, pair.value], "load", lineno=node.lineno) for pair in node.items
        ]
        return self._call("meter_dict", [nodes.List(pairs, lineno=node.lineno)], node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = self._call("meter_operand", [node.expr], node.lineno)
        for operand in node.ops:
            operand.expr = self._call("meter_operand", [operand.expr], node.lineno)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._call("meter_operand", [node.node], node.lineno)
            return self._call("meter_literal", [node], node.lineno)  # a slice is a copy
        return node
