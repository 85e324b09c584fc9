"""Grammars that begin after the reasoning: which texts they complete, and where they may end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast.errors import SamplingError
from pyroclast.sampling.after import MAX_MARK_CHARS, after_reasoning
from pyroclast.sampling.grammar import GrammarCompiler
from pyroclast.sampling.params import SamplingParams

EOS, END, CHANNEL, MESSAGE, START = range(256, 261)
NAMES = [b"<eos>", b"<|end|>", b"<|channel|>", b"<|message|>", b"<|start|>"]
N_ROWS = 261
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ANSWER = '{"a":1}'
HARMONY = (
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant",
    "<|channel|>final<|message|>",
)


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(
        [*(bytes([i]) for i in range(256)), *NAMES],
        lambda text: list(text.encode()),
        special_ids=range(256, N_ROWS),
        eos_ids=[EOS],
        n_rows=N_ROWS,
    )


def follow(grammars: GrammarCompiler, structured: dict[str, Any], pieces: list[Any]) -> str:
    """Feeds texts and control tokens: "refused" at the first that is not allowed, "complete" or
    "open" at the end."""
    matcher = grammars.matcher(SamplingParams(structured=structured).structured or {})
    words = np.zeros(-(-N_ROWS // 32), np.uint32)
    ids = [i for piece in pieces for i in (piece.encode() if isinstance(piece, str) else [piece])]
    for token_id in [*ids, EOS]:
        matcher.write_mask(words.ctypes.data)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        assert bool(bits[EOS]) == matcher.complete
        if token_id == EOS:
            return "complete" if matcher.complete else "open"
        if not bits[token_id]:
            return "refused"
        matcher.accept(token_id)
    raise AssertionError


@pytest.mark.parametrize(
    ("after", "pieces", "found"),
    [
        ("</think>", [f"Let me see </thin.</think>\n\n{ANSWER}"], "complete"),
        ("</think>", [f"</think>{ANSWER}"], "complete"),
        ("</think>", [ANSWER], "open"),
        ("</think>", ["é { </think"], "open"),
        ("</think>", ["so</think>no"], "refused"),
        ("</think>", ["so", END, "</think>"], "refused"),
        (("<think>", "</think>"), [ANSWER], "complete"),
        (("<think>", "</think>"), [f"<think>so</think> {ANSWER}"], "complete"),
        (("<think>", "</think>"), [f"so</think>{ANSWER}"], "refused"),
        (("<think>", "</think>"), [f"<think>{ANSWER}"], "open"),
        ("<|end|>", ["so", END, ANSWER], "complete"),
        ("<|end|>", ["so<|end|>", ANSWER], "open"),
        (HARMONY, [CHANNEL, "final", MESSAGE, ANSWER], "complete"),
        (
            HARMONY,
            [
                CHANNEL,
                "analysis",
                MESSAGE,
                "so",
                END,
                START,
                "assistant",
                CHANNEL,
                "final",
                MESSAGE,
                ANSWER,
            ],
            "complete",
        ),
        (HARMONY, [CHANNEL, "analysis", MESSAGE, "so", END, ANSWER], "refused"),
        (HARMONY, [ANSWER], "refused"),
    ],
)
def test_the_structure_holds_what_follows_the_reasoning(
    grammars: GrammarCompiler, after: Any, pieces: list[Any], found: str
) -> None:
    assert follow(grammars, {"json": SCHEMA, "after": after}, pieces) == found


@pytest.mark.parametrize(
    ("structured", "answer"),
    [
        ({"json_object": True}, '{"b":[]}'),
        ({"choice": ["yes", "no"]}, "no"),
        ({"regex": "a+"}, "aaa"),
        ({"grammar": 'root ::= "a" "b"'}, "ab"),
        ({"grammar": "start: A\nA: /b+/"}, "bb"),
    ],
    ids=str,
)
def test_every_kind_may_follow(
    grammars: GrammarCompiler, structured: dict[str, Any], answer: str
) -> None:
    late = structured | {"after": "</think>"}
    assert follow(grammars, late, [f"so</think>{answer}"]) == "complete"
    assert follow(grammars, late, ["so</think>?"]) == "refused"
    assert follow(grammars, structured, [f"so</think>{answer}"]) == "refused"


@pytest.mark.parametrize(
    "after", ["", 3, [], ["a", ""], ["a"] * 4, "a" * (MAX_MARK_CHARS + 1)], ids=repr
)
def test_bad_marks_are_refused(after: Any) -> None:
    with pytest.raises(SamplingError, match=r"structured\['after'\] must be the text that ends"):
        SamplingParams(structured={"json_object": True, "after": after})


def test_marks_alone_are_no_structure() -> None:
    with pytest.raises(SamplingError, match="got the keys: none"):
        SamplingParams(structured={"after": "</think>"})


def test_a_control_token_without_a_name_is_in_no_mark() -> None:
    """Rows of logits that only pad the output matrix have none."""
    marks = ["</think>"]
    assert after_reasoning("start: A", marks, {"": 5}) == after_reasoning("start: A", marks, {})
