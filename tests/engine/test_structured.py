"""Structured output through the engine: what ends with "stop" is complete, whatever runs beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from demo import demo_path
from pyroclast import LLM, SamplingParams
from pyroclast.errors import SamplingError
from random_answers import scripted_llm

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "temperature_in_degrees": {"enum": ["hot and sunny", "cold"]},
        "days": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["city", "temperature_in_degrees", "days"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
PROMPTS = ["The weather in Paris as JSON: ", "An object: ", "She said"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(demo_path(), n_blocks=64) as llm:
        yield llm


def params(**changes: Any) -> SamplingParams:
    given = {"temperature": 1.2, "seed": 5, "max_tokens": 120, "structured": {"json": SCHEMA}}
    return SamplingParams(**{**given, **changes})


@pytest.mark.parametrize("seed", range(4))
def test_what_ends_with_stop_validates(llm: LLM, seed: int) -> None:
    answers = llm.generate(PROMPTS, params(seed=seed, n=2))
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    complete = [answer for answer in answers if answer.finish_reason == "stop"]
    assert complete
    for answer in complete:
        jsonschema.validate(json.loads(answer.text), SCHEMA)


def test_forced_tokens_change_no_text(llm: LLM) -> None:
    """A request that wants logprobs computes every token; the text and the tokens are the same."""
    for seed in range(4):
        jumps = llm.generate(PROMPTS, params(seed=seed))
        steps = llm.generate(PROMPTS, params(seed=seed, logprobs=0))
        assert [each.token_ids for each in jumps] == [each.token_ids for each in steps]
        assert [each.text for each in jumps] == [each.text for each in steps]


def test_neighbours_and_preemption_change_no_text(llm: LLM) -> None:
    alone = [llm.generate(prompt, params())[0] for prompt in PROMPTS]
    together = llm.generate(
        [*PROMPTS, "Without any form: "], [*[params()] * 3, params(structured=None)]
    )
    assert [each.token_ids for each in together[:3]] == [each.token_ids for each in alone]
    with LLM(demo_path(), n_blocks=6, max_seqs=4) as tight:
        squeezed = tight.generate(PROMPTS, params())
    assert [each.token_ids for each in squeezed] == [each.token_ids for each in alone]


def test_a_stream_gives_forced_tokens_with_the_one_that_forced_them(llm: LLM) -> None:
    chunks = list(llm.stream(PROMPTS[0], params()))
    [whole] = llm.generate(PROMPTS[0], params())
    assert [i for chunk in chunks for i in chunk.token_ids] == whole.token_ids
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert max(len(chunk.token_ids) for chunk in chunks) > 2


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": ["hot"]},
        {"min_tokens": 100},
        {"repetition_penalty": 1.3},
        {"max_tokens": 5},
        {"ignore_eos": True},
        {"prompt_logprobs": 0},
        {"logits_processors": [lambda _, logits: logits * 2]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_parameters_hold_beside_a_grammar(llm: LLM, changes: dict[str, Any]) -> None:
    [answer] = llm.generate(PROMPTS[0], params(**changes))
    assert len(answer.token_ids) <= changes.get("max_tokens", 120)
    if answer.finish_reason == "stop" and answer.stop_reason is None:
        jsonschema.validate(json.loads(answer.text), SCHEMA)
    if "stop" in changes:
        assert "hot" not in answer.text


def test_allowed_token_ids_narrow_the_grammar(llm: LLM) -> None:
    [yes] = llm.tokenizer.encode("yes", add_special_tokens=False)
    choice = params(structured={"choice": ["yes", "no"]}, allowed_token_ids=[yes])
    for seed in range(5):
        assert llm.generate("I say ", choice.replace(seed=seed))[0].text == "yes"


def test_nothing_left_is_an_error_of_that_call_alone(llm: LLM) -> None:
    [token_id] = llm.tokenizer.encode("x", add_special_tokens=False)
    nothing = params(structured={"choice": ["yes"]}, allowed_token_ids=[token_id])
    with pytest.raises(SamplingError, match="no token is left"):
        llm.generate("I say ", nothing)
    assert llm.generate("I say ", params(structured={"choice": ["yes"]}))[0].text == "yes"


def test_a_grammar_that_cannot_be_compiled_queues_nothing(llm: LLM) -> None:
    with pytest.raises(SamplingError, match="cannot be compiled"):
        llm.generate(["a", "b"], [params(), params(structured={"regex": "("})])


@pytest.mark.parametrize("jumps", [True, False])
def test_reasoning_comes_first_and_is_free(llm: LLM, jumps: bool) -> None:
    thought = 'Well, {"city" and so on.'
    wanted = '{"city":"Rome","temperature_in_degrees":"cold","days":[true]}'
    prompt = llm.tokenizer.encode("Think: ")
    text = f"{thought}</think>\n{wanted} Done."
    with scripted_llm(llm.tokenizer, len(prompt), text) as scripted:
        structured = {"json": SCHEMA, "after": "</think>"}
        given = params(structured=structured, temperature=0, logprobs=None if jumps else 0)
        [answer] = scripted.generate([prompt], given)
    assert answer.text == f"{thought}</think>\n{wanted}"
    assert answer.finish_reason == "stop"
