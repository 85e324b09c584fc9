"""Which texts a schema's grammar completes: none that is invalid, however it is spelt."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from json_schemas import Group, bench, suite, why_invalid
from pyroclast.errors import SamplingError
from pyroclast.sampling.grammar import GrammarCompiler
from pyroclast.sampling.params import SamplingParams

EOS, N_ROWS = 256, 258
# `format` is held as a pattern, as far as llguidance has one: 2021-02-29 is no date, but looks so.
# `content*` are annotations since draft 2019-09.  Regular expressions: see test_schemas.py.
NOT_HELD = ("/format/", "optional/content", "ecmascript-regex")


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    tokens = [*(bytes([i]) for i in range(256)), b"<eos>", b"<bos>"]
    return GrammarCompiler(
        tokens, lambda text: list(text.encode()), special_ids=[256, 257], eos_ids=[256], n_rows=258
    )


def spec(schema: Any) -> Any:
    return SamplingParams(structured={"json": schema}).structured


def allowed(matcher: Any) -> np.ndarray:
    words = np.zeros(-(-N_ROWS // 32), np.uint32)
    matcher.write_mask(words.ctypes.data)
    return np.unpackbits(words.view(np.uint8), bitorder="little")


def accepts(grammars: GrammarCompiler, schema: Any, text: str) -> bool:
    """Whether an answer may be this text.  Its end is allowed exactly where it is complete."""
    matcher = grammars.matcher(spec(schema))
    for byte in text.encode():
        if matcher.ended:
            return False
        bits = allowed(matcher)
        assert bool(bits[EOS]) == matcher.complete
        if not bits[byte]:
            return False
        matcher.accept(byte)
    return matcher.ended or bool(allowed(matcher)[EOS])


def spellings(value: Any) -> set[str]:
    """A value as JSON, in several ways; the last escapes every letter of every string."""
    plain = json.dumps(value, ensure_ascii=False)
    return {plain, json.dumps(value), json.dumps(value, separators=(",", ":")), _escaped(value)}


def _escaped(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_escaped(k)}:{_escaped(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_escaped, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    units = value.encode("utf-16-be")
    return (
        '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'
    )


def read(grammars: GrammarCompiler, group: Group) -> tuple[int, list[str]] | None:
    """How many of the valid data can be written, and which of the invalid ones; None if the schema
    is refused."""
    try:
        grammars.matcher(spec(group.schema))
    except SamplingError:
        return None
    n = sum(any(accepts(grammars, group.schema, t) for t in spellings(v)) for v in group.valid)
    return n, [
        text
        for value in group.invalid
        for text in spellings(value)
        if accepts(grammars, group.schema, text)
    ]


def test_no_invalid_data_of_the_test_suite_can_be_written(grammars: GrammarCompiler) -> None:
    groups = [g for g in suite() if not any(part in g.name for part in NOT_HELD)]
    n_written = n_valid = 0
    wrong = {}
    for group in groups:
        if (found := read(grammars, group)) is not None:
            n_written, n_valid = n_written + found[0], n_valid + len(group.valid)
            if found[1]:
                wrong[group.name] = found[1]
    assert wrong == {}
    assert n_written > 0.9 * n_valid  # order of properties, 1.0 for 1: the rest


@pytest.mark.slow
def test_no_invalid_data_of_json_schema_bench_can_be_written(grammars: GrammarCompiler) -> None:
    wrong = {}
    for group in bench():
        try:
            found = read(grammars, group)
        except SamplingError:  # became too complex on the way: told, and no answer
            continue
        for text in found[1] if found else ():
            if why := why_invalid(group.schema, text):
                wrong[f"{group.name}: {text[:200]}"] = why
    assert wrong == {}


INT64 = 2**63 - 1


@pytest.mark.parametrize(
    ("schema", "text", "holds"),
    [
        ({"properties": {"foo": {"type": "integer"}}}, r'{"\u0066oo":"x"}', False),
        ({"properties": {"é": {"type": "integer"}}}, r'{"\u00e9":"x"}', False),
        ({"patternProperties": {"^a": {"type": "integer"}}}, r'{"\u0061b":"x"}', False),
        ({"properties": {"foo": {"type": "integer"}}}, '{"foo":1,"foo":"x"}', False),
        ({"type": "object", "minProperties": 1}, "{}", False),
        ({"type": "object", "minProperties": 1}, '{"a":1}', True),
        ({"required": ["a"], "type": "object", "minProperties": 2}, '{"a":1}', False),
        ({"required": ["a"], "type": "object", "minProperties": 2}, '{"a":1,"b":1}', True),
        ({"type": "string", "maxLength": 1}, r'"\n"', True),
        ({"type": "integer", "maximum": INT64}, str(INT64), True),
        ({"type": "integer", "maximum": INT64}, str(INT64 + 1), False),
        ({"x-guidance": {"item_separator": ", "}, "type": "array"}, "[1, 2]", True),
        ({"x-guidance": {"whitespace_flexible": False}, "type": "array"}, "[1, 2]", False),
        ({"const": "a\n"}, r'"a\n"', True),
    ],
)
def test_one_text(grammars: GrammarCompiler, schema: Any, text: str, holds: bool) -> None:
    assert accepts(grammars, schema, text) is holds
    assert why_invalid(schema, text) is None or not holds


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"items": {"minProperties": 4, "required": ["a", "b"]}}, "minProperties"),
        (
            {
                "minProperties": 2,
                "additionalProperties": False,
                "properties": {"a": {}, "b": {}},
                "patternProperties": {"^c": {}},
            },
            "minProperties",
        ),
        ({"const": 2**53 + 1}, "const"),
        ({"enum": [{"a": [2**53 + 1]}]}, "enum"),
        ({"const": 2**2000}, "const"),
        ({"const": "\x01"}, "control character"),
        ({"anyOf": [{"type": "integer", "minimum": 2**53 + 1}]}, "minimum"),
        ({"$defs": {"a": {"exclusiveMaximum": 2**53 + 1}}}, "exclusiveMaximum"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance.lenient"),
        ({"x-guidance": {"coerce_one_of": True}}, "x-guidance.coerce_one_of"),
        ({"x-guidance": {"whitespace_pattern": "x*"}}, "x-guidance.whitespace_pattern"),
        ({"x-guidance": {"item_separator": ";"}}, "x-guidance.item_separator"),
        ({"x-guidance": None}, "x-guidance"),
        ({"const": float("inf")}, "no JSON schema"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "allOf": [{"$id": "http://a.example/b", "$ref": "#/definitions/c"}],
            },
            r"\$id",
        ),
    ],
)
def test_what_would_not_be_held_is_refused_by_name(schema: Any, said: str) -> None:
    with pytest.raises(SamplingError, match=said):
        spec(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"minProperties": {"type": "integer"}, "const": {}}},
        {"minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        {"const": 2**53, "title": "a\x01"},
        {"enum": [1.5, None, True, {"a": "b\n"}]},
        {"$id": "http://a.example/b", "$ref": "#/$defs/c", "$defs": {"c": {}}},
        {"default": {"minProperties": 9}, "examples": [2**60 + 1]},
        True,
    ],
)
def test_what_is_held_is_taken(schema: Any) -> None:
    assert spec(schema)


def test_a_schema_that_nothing_fulfils_is_refused(grammars: GrammarCompiler) -> None:
    with pytest.raises(SamplingError, match="no text fulfils it"):
        grammars.matcher(spec({"$ref": "#"}))
