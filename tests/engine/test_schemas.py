"""An answer that ends with "stop" validates, whatever the model would write: over public schemas,
with random models, through the whole engine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from json_schemas import Group, bench, suite, why_invalid
from pyroclast import LLM, SamplingParams
from pyroclast.errors import SamplingError

# Python's re has no \p, and its \W knows letters that ECMAScript's does not: no judge of these.
NO_JUDGE = ("ecmascript-regex", "non-bmp-regex", "Unicode property escape")


def judged(groups: Iterable[Group]) -> list[Group]:
    return [group for group in groups if not any(part in group.name for part in NO_JUDGE)]


def params(group: Group, **changes: Any) -> SamplingParams | None:
    """None for a schema that is refused."""
    given = {"temperature": 0, "max_tokens": 120, "structured": {"json": group.schema}}
    try:
        return SamplingParams(**{**given, **changes})
    except SamplingError:
        return None


def run(llm: LLM, groups: Iterable[Group], seeds: range) -> tuple[int, int, dict[str, str]]:
    """How many schemas were refused, how many answers ended with "stop", and which of these are
    invalid, and why."""
    n_refused = n_answers = 0
    invalid = {}
    for group in groups:
        each = params(group)
        try:
            answers = llm.generate([f"{seed}" for seed in seeds], each) if each else []
        except SamplingError:
            answers = []
        n_refused += not answers
        for answer in answers:
            if answer.finish_reason == "stop":
                n_answers += 1
                if why := why_invalid(group.schema, answer.text):
                    invalid[f"{group.name}: {answer.text}"] = why
    return n_refused, n_answers, invalid


def report(request: pytest.FixtureRequest, **counts: int) -> None:
    """Counts for the test report (--junitxml)."""
    request.node.user_properties += counts.items()


def test_answers_to_the_test_suite_validate(by_bytes: LLM, request: pytest.FixtureRequest) -> None:
    groups = judged(suite())
    n_refused, n_answers, invalid = run(by_bytes, groups, range(8))
    report(request, schemas=len(groups), refused=n_refused, answers=n_answers)
    assert invalid == {}
    assert n_refused < 0.6 * len(groups)
    assert n_answers > 4 * (len(groups) - n_refused)


def test_answers_of_a_real_vocabulary_validate(by_tokens: LLM) -> None:
    n_refused, n_answers, invalid = run(by_tokens, judged(suite())[::9], range(4))
    assert invalid == {}
    assert n_answers > 2 * (len(judged(suite())[::9]) - n_refused)


@pytest.mark.slow
def test_answers_to_json_schema_bench_validate(
    by_bytes: LLM, request: pytest.FixtureRequest
) -> None:
    groups = list(bench())
    n_refused, n_answers, invalid = run(by_bytes, groups, range(3))
    report(request, schemas=len(groups), refused=n_refused, answers=n_answers)
    assert invalid == {}
    assert n_answers


KEYWORDS = {
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 2}},
    "if": {"if": {"type": "string"}, "then": {"maxLength": 1}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "unevaluatedItems": {"unevaluatedItems": False},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "format": {"type": "string", "format": "iri"},
    "minProperties": {"type": "object", "minProperties": 3},
}


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_that_is_not_held_is_refused_by_name(by_bytes: LLM, keyword: str) -> None:
    nested = {"type": "object", "properties": {"a": KEYWORDS[keyword]}, "required": ["a"]}
    for schema in (KEYWORDS[keyword], nested):
        with pytest.raises(SamplingError, match=re.escape(keyword)):
            by_bytes.generate("a", SamplingParams(structured={"json": schema}))
