"""Schemas, expressions and grammars made to explode: each is followed or refused, in bounded time
and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyroclast import LLM, SamplingParams
from pyroclast.errors import SamplingError
from pyroclast.sampling.grammar import COMPILE_S
from pyroclast.sampling.structured import MAX_CHOICES
from random_answers import demo_llm

_MAX_GROWTH_KB = 512 << 10
_LEVELS = range(12)
_LAST: dict[str, Any] = {"d12": {"type": "string"}}


def levels(make: Any) -> dict[str, Any]:
    """A schema of 12 definitions, each of which refers ten times to the next."""
    found = {f"d{i}": make([{"$ref": f"#/$defs/d{i + 1}"}] * 10) for i in _LEVELS}
    return {"$defs": found | _LAST, "$ref": "#/$defs/d0"}


SCHEMAS: dict[str, Any] = {
    "a list of 10**9": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "lists of lists": {
        "type": "array", "maxItems": 1000, "items": {
            "type": "array", "maxItems": 1000, "items": {"type": "array", "maxItems": 1000},
        },
    },
    "a text of 10**9": {"type": "string", "minLength": 10**9},
    "numbers of 400 digits": {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
    "large multiples": {"allOf": [{"multipleOf": p} for p in (999983, 999979, 999961)]},
    "a pattern that repeats": {"type": "string", "pattern": "(a{1000}){1000}"},
    "a pattern that backtracks": {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"},
    "a pattern with many states": {"type": "string", "pattern": "(.*a.{5000}){2}"},
    "many values": {"enum": [f"x{i}" for i in range(40_000)]},
    "products of choices": {"allOf": [
        {"anyOf": [{"properties": {f"p{i}{j}": {"type": "string"}}} for j in range(4)]}
        for i in range(30)
    ]},
    "a reference to itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "10**12 references": levels(lambda each: {"allOf": each}),
    "lists of 10**12": levels(lambda each: {"type": "array", "prefixItems": each, "minItems": 10}),
    "choices of 10**12": levels(lambda each: {"anyOf": each}),
    "many properties": {"properties": {f"p{i}": {"type": "string"} for i in range(3000)}},
    "patterns of properties": {
        "patternProperties": {f"^p{i}.*x$": {"type": "string"} for i in range(500)},
    },
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {name: {"json": each} for name, each in SCHEMAS.items()} | {
    "optional characters": {"regex": "(?:a?){5000}a{5000}"},
    "many states": {"regex": ".*a.{400}"},
    "deep groups": {"regex": "(" * 5000 + "a+" + ")" * 5000},
    "repeated repetitions": {"regex": "((a{0,1000}){0,1000}){0,1000}"},
    "an ambiguous grammar": {"grammar": 'start: a\na: a a | a a a | "x" | ""'},
    "optional rules": {"grammar": "start: " + " ".join(["a?"] * 2000) + '\na: "x"'},
    "deep rules": {"grammar": "start: " + "(" * 3000 + '"a"' + ")" * 3000},
    "long choices": {"choice": ["x" * 100 + str(i) for i in range(4000)]},
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with demo_llm() as made:
        made.generate("1", SamplingParams(structured={"regex": "a"}, max_tokens=1))
        yield made


@pytest.mark.parametrize("name", CASES)
def test_it_is_followed_or_refused_in_time(llm: LLM, name: str) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.process_time()
    try:
        params = SamplingParams(structured=CASES[name], max_tokens=20)
        outcome = llm.generate("1", params)[0].finish_reason
    except SamplingError as error:
        outcome = str(error)
    assert any(word in outcome for word in ("stop", "length", "structured", "the grammar"))
    assert time.process_time() - start_s < 1.5 * COMPILE_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < _MAX_GROWTH_KB
    again = llm.generate("1", SamplingParams(structured={"regex": "ab"}, max_tokens=4))
    assert again[0].text == "ab"


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 100_003},
        {"multipleOf": 1e308},
        {"multipleOf": 10**400},
        {"allOf": [{"multipleOf": 1009}, {"type": "number", "multipleOf": 1013}]},
        {"multipleOf": 1009, "anyOf": [{"multipleOf": 1013}, {"type": "string"}]},
        {"items": {"multipleOf": 1009, "$ref": "#/$defs/a"}, "$defs": {"a": {"multipleOf": 1013}}},
        {
            "properties": {"a": {"multipleOf": 1009}, "b": {"multipleOf": 1013}},
            "items": {"allOf": [{"$ref": "#/properties/a"}, {"$ref": "#/properties/b"}]},
        },
        {"$id": "u:x", "allOf": [{"$ref": "u:x#a"}], "multipleOf": 1009, "items": {
            "$anchor": "a", "multipleOf": 1013,
        }},
        {"multipleOf": 7, "allOf": [{"multipleOf": 0.00003}]},
    ],
)  # fmt: skip
def test_multiples_with_many_remainders_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match=r"multipleOf is not supported with .* remainders"):
        SamplingParams(structured={"json": schema})


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 99_991},
        {"type": "integer", "multipleOf": 999_983},
        {"properties": {"a": {"multipleOf": 1009}, "b": {"multipleOf": 1013}}},
        {"allOf": [{"multipleOf": 8}, {"multipleOf": 0.01}]},
        {"properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/$defs/b"}}, "$defs": {
            "a": {"multipleOf": 1009}, "b": {"multipleOf": 1013},
        }},
    ],
)  # fmt: skip
def test_other_multiples_are_taken(schema: dict[str, Any]) -> None:
    assert SamplingParams(structured={"json": schema}).structured


def test_as_many_choices_as_are_allowed_may_begin_alike(llm: LLM) -> None:
    choices = ["x" * 50 + str(i) for i in range(MAX_CHOICES)]
    [answer] = llm.generate("1", SamplingParams(structured={"choice": choices}, max_tokens=80))
    assert answer.text in choices
