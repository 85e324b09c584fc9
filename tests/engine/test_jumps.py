"""Tokens that a grammar forces are appended without a step each.  The answer is the same as with a
step for each, which a request that wants logprobs takes: random schemas, seeds and parameters."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from json_schemas import suite, why_invalid
from pyroclast import LLM, SamplingParams
from pyroclast.engine.output import Completion
from pyroclast.errors import SamplingError

NAMES = ("name", "names", "n", "address of the house", 'a "quoted" one', "größe")
SOME_FILES = tuple(f"draft2020-12/{name}:" for name in ("enum", "const", "properties", "required"))
TEXTS = ("yes", "yes, certainly", "no", "", "länger und länger", 'say "so"\n')


def a_schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema that always can be fulfilled in a few dozen tokens, and forces some of them."""
    kind = chance.choice(("object", "object", "array", "enum", "const", "string", "integer", "any"))
    if depth == 0 and kind in ("object", "array", "any"):
        kind = "enum"
    if kind == "object":
        names = chance.sample(NAMES, chance.randint(1, 3))
        return {
            "type": "object",
            "properties": {name: a_schema(chance, depth - 1) for name in names},
            "required": names[: chance.randint(0, len(names))],
            "additionalProperties": False,
        }
    if kind == "array":
        n = chance.randint(0, 2)
        return {"type": "array", "items": a_schema(chance, depth - 1), "minItems": n, "maxItems": 2}
    if kind == "any":
        return {"anyOf": [a_schema(chance, depth - 1) for _ in range(2)]}
    return {
        "enum": {"enum": [*chance.sample(TEXTS, 2), None, 12345678]},
        "const": {"const": {"fixed": [chance.choice(TEXTS), True]}},
        "string": {"type": "string", "maxLength": 5},
        "integer": {"type": "integer", "minimum": 0, "maximum": 99},
    }[kind]


def facts(answers: list[Completion]) -> list[tuple[Any, ...]]:
    """All that a user sees, but for times and logprobs."""
    return [
        (e.prompt_index, e.index, e.text, e.token_ids, e.finish_reason, e.stop_reason)
        for e in answers
    ]


def check(llm: LLM, schema: Any, **changes: Any) -> list[Completion]:
    """Generates with jumps and without; returns the answers, which are equal."""
    given = {"structured": {"json": schema}, "max_tokens": 150, "n": 2} | changes
    params = SamplingParams(**given)
    jumps = llm.generate(["Go: ", "And now: "], params)
    steps = llm.generate(["Go: ", "And now: "], params.replace(logprobs=1))
    assert facts(jumps) == facts(steps)
    for each in jumps:
        if each.finish_reason == "stop" and each.stop_reason is None:
            assert why_invalid(schema, each.text) is None
    for each in steps:
        assert [token.token_id for token in each.logprobs or ()] == each.token_ids
    return jumps


@pytest.mark.parametrize("seed", range(24))
def test_random_schemas(by_bytes: LLM, seed: int) -> None:
    chance = random.Random(seed)
    schema = a_schema(chance)
    answers = check(by_bytes, schema, seed=seed)
    assert any(answer.finish_reason == "stop" for answer in answers)
    text = answers[0].text
    at = chance.randrange(len(text))
    stops = [text[at : at + chance.randint(1, 4)], text[-2:], "never"]
    stopped = check(by_bytes, schema, seed=seed, stop=stops)
    assert stopped[0].stop_reason in stops
    n = len(answers[0].token_ids)
    check(by_bytes, schema, seed=seed, min_tokens=n - 1, stop=stops)
    check(by_bytes, schema, seed=seed, min_tokens=n + 5)
    check(by_bytes, schema, seed=seed, max_tokens=max(1, n // 2))
    check(by_bytes, schema, seed=seed, stop_token_ids=[answers[0].token_ids[at // 2]])
    check(by_bytes, schema, seed=seed, repetition_penalty=1.2, frequency_penalty=0.5)
    check(by_bytes, {"type": "object", "properties": {"a": schema}}, seed=seed, ignore_eos=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_real_vocabulary(by_tokens: LLM, seed: int) -> None:
    answers = check(by_tokens, a_schema(random.Random(100 + seed)), seed=seed, temperature=0.8)
    stop = answers[0].text[1:3]
    schema = a_schema(random.Random(100 + seed))
    check(by_tokens, schema, seed=seed, temperature=0.8, stop=stop or "x", min_tokens=3, n=3)


def test_schemas_of_the_suite(by_bytes: LLM) -> None:
    n_held = 0
    for group in suite():
        if not group.name.startswith(SOME_FILES):
            continue
        with contextlib.suppress(SamplingError):  # refused: see test_schemas.py
            check(by_bytes, group.schema, seed=3, max_tokens=60)
            n_held += 1
    assert n_held > 20


def test_streams_of_several_completions(by_bytes: LLM) -> None:
    """The chunks of a stream, which carry forced tokens several at once, joined."""
    schema = a_schema(random.Random(0))
    params = SamplingParams(structured={"json": schema}, seed=4, max_tokens=150)
    for stop in ((), ("e",)):
        whole = by_bytes.generate("Go: ", params.replace(stop=stop))[0]
        for logprobs in (None, 0):
            chunks = list(by_bytes.stream("Go: ", params.replace(stop=stop, logprobs=logprobs)))
            assert "".join(chunk.text for chunk in chunks) == whole.text
            assert [i for chunk in chunks for i in chunk.token_ids] == whole.token_ids
