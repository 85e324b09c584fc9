"""`SamplingParams.structured` and the grammars that it becomes, without a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from demo import demo_path
from pyroclast.errors import SamplingError
from pyroclast.sampling.grammar import GrammarCompiler, Matcher
from pyroclast.sampling.params import SamplingParams
from pyroclast.sampling.structured import MAX_CHARS, MAX_CHOICES, MAX_DEPTH
from pyroclast.text.tokenizer import Tokenizer

N_ROWS = 49_200  # the demo model has 49,152 tokens; the rest pads


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(demo_path())


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(
        [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)],
        lambda text: tokenizer.encode(text, add_special_tokens=False, parse_special=False),
        special_ids=sorted(tokenizer.special_token_ids),
        eos_ids=sorted(tokenizer.eos_token_ids),
        n_rows=N_ROWS,
    )


def allowed(matcher: Matcher) -> list[int]:
    """The rows of logits whose bit is set."""
    words = np.zeros(-(-N_ROWS // 32), np.uint32)
    matcher.write_mask(words.ctypes.data)
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def walk(matcher: Matcher, eos: frozenset[int], chance: random.Random) -> Iterator[int]:
    """A random text that the grammar allows."""
    while not matcher.ended:
        token_id = chance.choice(allowed(matcher))
        if token_id in eos:
            assert matcher.complete
            return
        yield token_id
        matcher.accept(token_id)


def a_nest(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("json", "a mapping with one of the keys json, json_object"),
        ({}, "got the keys: none"),
        ({"json": {}, "regex": "a"}, "got the keys: json, regex"),
        ({"yaml": "a"}, "got the keys: yaml"),
        ({"json": "{"}, r"structured\['json'\] is no JSON"),
        ({"json": "[" * 100_000}, "is no JSON"),
        ({"json": [1]}, "must be a JSON schema"),
        ({"json": {"const": {1, 2}}}, "is no JSON schema"),
        ({"json": a_nest(MAX_DEPTH + 1)}, f"at most {MAX_DEPTH} levels"),
        ({"json": {"const": "a" * MAX_CHARS}}, f"at most {MAX_CHARS} characters"),
        ({"json_object": False}, "must be True"),
        ({"regex": ""}, "not empty"),
        ({"regex": 3}, "must be a text"),
        ({"choice": "yes"}, "list of texts"),
        ({"choice": []}, f"1 to {MAX_CHOICES} texts, got 0"),
        ({"choice": ["a"] * (MAX_CHOICES + 1)}, f"1 to {MAX_CHOICES} texts"),
        ({"choice": ["a", ""]}, "not empty"),
        ({"grammar": None}, "got the keys: none"),
    ],
)
def test_bad_values_are_refused(value: Any, said: str) -> None:
    with pytest.raises(SamplingError, match=said):
        SamplingParams(structured=value)


def test_a_schema_that_is_too_long_is_refused_before_it_is_walked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walked: list[str] = []
    for name in ("_check_depth", "check_enforced"):
        where = f"pyroclast.sampling.structured.{name}"
        monkeypatch.setattr(where, lambda *_, name=name: walked.append(name))
    SamplingParams(structured={"json": {"enum": ["a"]}})
    assert walked == ["_check_depth", "check_enforced"]
    with pytest.raises(SamplingError, match=f"at most {MAX_CHARS} characters"):
        SamplingParams(structured={"json": {"enum": ["a"] * MAX_CHARS}})
    assert len(walked) == 2


def test_a_name_that_is_no_text_is_shown_escaped() -> None:
    with pytest.raises(SamplingError, match=r"x-guidance\.\\ud800a* is not supported") as caught:
        SamplingParams(structured={"json": {"x-guidance": {"\ud800" + "a" * 999: True}}})
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 400


def test_a_schema_that_is_too_deep_to_be_written_is_refused() -> None:
    with pytest.raises(SamplingError, match=f"at most {MAX_DEPTH} levels"):
        SamplingParams(structured={"json": a_nest(100_000)})


def test_a_schema_may_be_a_mapping_a_text_or_a_class() -> None:
    class Model:
        @staticmethod
        def model_json_schema() -> dict[str, str]:
            return {"type": "string"}

    for schema in ({"type": "string"}, '{"type":"string"}', Model):
        params = SamplingParams(structured={"json": schema})
        assert params.structured == {"json": '{"type": "string"}'}
        assert params.replace(temperature=0.5).structured == params.structured


@pytest.mark.parametrize(
    ("structured", "said"),
    [
        ({"regex": "("}, "unclosed group"),
        ({"grammar": "start: nobody"}, "unknown name"),
        ({"grammar": 'root ::= "a" nobody'}, "nobody"),
        ({"json": {"type": "nothing"}}, "nothing"),
        ({"json": {"type": "string", "pattern": "(?=a)"}}, "cannot be compiled"),
    ],
)
def test_what_cannot_be_compiled_says_why(
    grammars: GrammarCompiler, structured: dict[str, Any], said: str
) -> None:
    with pytest.raises(SamplingError, match=said) as caught:
        grammars.matcher(SamplingParams(structured=structured).structured or {})
    assert len(str(caught.value)) < 800


SOME = [
    {"choice": ["yes", "no", "yes, perhaps"]},
    {"regex": r"[0-9]{3}-[0-9]{4}"},
    {"grammar": 'root ::= "a" ("b" | "c")+ "d"'},
    {"grammar": 'start: "x" NUMBER\nNUMBER: /[0-9]+/'},
    {
        "json": {
            "type": "object",
            "properties": {"name": {"enum": ["a b c", "abacus"]}, "n": {"type": "boolean"}},
            "required": ["name", "n"],
            "additionalProperties": False,
        }
    },
]


@pytest.mark.parametrize("structured", SOME, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_forced_tokens_are_the_only_ones_allowed(
    grammars: GrammarCompiler, tokenizer: Tokenizer, structured: dict[str, Any], seed: int
) -> None:
    """So a text is the same whether forced tokens are drawn or appended."""
    spec = SamplingParams(structured=structured).structured
    assert spec is not None
    matcher = grammars.matcher(spec)
    for token_id in walk(grammars.matcher(spec), tokenizer.eos_token_ids, random.Random(seed)):
        forced = matcher.forced()
        if forced:
            assert allowed(matcher) == forced[:1] == [token_id]
        matcher.accept(token_id)


def test_the_end_is_allowed_exactly_when_the_text_is_complete(
    grammars: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    matcher = grammars.matcher({"regex": "ab*"})
    eos = tokenizer.eos_token_ids
    assert not eos & set(allowed(matcher))
    for text in "abbb":
        [token_id] = tokenizer.encode(text, add_special_tokens=False)
        matcher.accept(token_id)
        assert eos <= set(allowed(matcher))
        assert matcher.complete
        assert not matcher.ended
    matcher = grammars.matcher({"choice": ("no",)})
    for token_id in tokenizer.encode("no", add_special_tokens=False):
        matcher.accept(token_id)
    assert matcher.ended


def test_control_tokens_are_never_allowed_as_text(
    grammars: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    found = set(allowed(grammars.matcher({"regex": r"(.|\n)*"})))
    assert found & tokenizer.special_token_ids <= tokenizer.eos_token_ids
    assert all(row < tokenizer.vocab_size for row in found)


def test_a_token_that_is_not_allowed_is_told_at_the_next_mask(
    grammars: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    matcher = grammars.matcher({"regex": "a+"})
    [wrong] = tokenizer.encode("b", add_special_tokens=False)
    matcher.accept(wrong)
    with pytest.raises(SamplingError, match="could not be followed"):
        allowed(matcher)


def test_text_without_tokens_of_its_own_takes_the_longest_that_fit() -> None:
    """A SentencePiece vocabulary puts a space before a text: then the pieces are found here."""
    tokens = [b"<s>", b"a", b"b", b"ab", b" ab"]
    grammars = GrammarCompiler(
        tokens, lambda _: [4], special_ids=[0], eos_ids=[0], n_rows=len(tokens)
    )
    matcher = grammars.matcher({"choice": ("abab",)})
    given = []
    while not matcher.ended:
        given += matcher.forced()[:1]
        matcher.accept(given[-1])
    assert b"".join(tokens[i] for i in given) == b"abab"
