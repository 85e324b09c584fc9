"""Public JSON schemas with data that fulfil them and data that do not, and the judge of answers.

The groups of the JSON-Schema-Test-Suite (tests/data/json_schema_suite, MIT) are those of drafts
2020-12 and 7 that refer to no other document.  JSONSchemaBench is read in place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest

_SUITE = Path(__file__).parent / "data" / "json_schema_suite" / "groups.jsonl"
_BENCH = "PYROCLAST_JSON_SCHEMA_BENCH"
_DRAFTS = (
    jsonschema.Draft202012Validator,
    jsonschema.Draft7Validator,
    jsonschema.Draft4Validator,
)


@dataclass(frozen=True)
class Group:
    """One schema.  valid and invalid: data that do and do not fulfil it."""

    name: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]


def suite() -> list[Group]:
    """Every group of the test suite that is kept here."""
    found = []
    for line in _SUITE.read_text(encoding="utf-8").splitlines():
        file, description, schema, valid, invalid = json.loads(line)
        found.append(Group(f"{file}: {description}", schema, valid, invalid))
    return found


def bench() -> Iterator[Group]:
    """JSONSchemaBench with its data; skips where it is not given."""
    folder = os.environ.get(_BENCH)
    if folder is None:
        pytest.skip(f"{_BENCH} must name the folder maskbench/data of guidance-ai/jsonschemabench")
    files = sorted(Path(folder).glob("*.json"))
    assert files, f"{_BENCH} holds no schemas"
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        tests = found.get("tests", [])
        data = [[test["data"] for test in tests if test["valid"] is ok] for ok in (True, False)]
        yield Group(file.stem, found["schema"], *data)


def why_invalid(schema: Any, text: str) -> str | None:
    """What is wrong with an answer, by jsonschema; numbers are compared exactly."""
    try:
        value = json.loads(text, parse_float=_exact)
        _validator(schema).validate(value)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).split("\n", 1)[0]
    return None


def _exact(text: str) -> float | Decimal:
    """As written, unless that has more digits than memory."""
    value = float(text)
    return Decimal(text) if 1e-300 < abs(value) < 1e300 else value


def _validator(schema: Any) -> Any:
    """Of the draft that the schema names, or the newest under which it is one."""
    if isinstance(schema, bool):
        return _DRAFTS[0](schema)
    kind = jsonschema.validators.validator_for(schema, default=None)
    if kind is None:
        kind = next((each for each in _DRAFTS if _is_schema(each, schema)), _DRAFTS[0])
    return jsonschema.validators.extend(kind, {"multipleOf": _multiple_of})(schema)


def _is_schema(kind: Any, schema: Any) -> bool:
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError:
        return False
    return True


def _multiple_of(validator: Any, divisor: Any, value: Any, schema: Any) -> Iterator[Any]:
    """jsonschema divides floats, and so holds 19.99 for no multiple of 0.01."""
    if not validator.is_type(value, "number") or value in (float("inf"), -float("inf")):
        return
    if Fraction(str(value)) % Fraction(str(divisor)):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {divisor}")
