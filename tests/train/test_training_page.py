"""docs/training.md held against the figures of bench/results/training.json and preference.json."""

from __future__ import annotations

import json

from documents import ROOT
from pyroclast.train.measure import table, told

RESULT, PREFERENCE = (
    json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
    for name in ("training", "preference")
)
PAGE = (ROOT / "docs" / "training.md").read_text()


def test_the_page_has_the_figures_of_its_result() -> None:
    for row in RESULT["rows"]:
        assert "\n".join(told(row["texts"])) in PAGE
        assert "\n".join(table(row["before"], row["after"])) in PAGE
        assert f"{row['training_s'] / 60:.1f} minutes" in PAGE


def test_answers_after_preferences_are_preferred_more() -> None:
    [row] = PREFERENCE["rows"]
    assert "\n".join(told(row["texts"])) in PAGE
    assert "\n".join(table(row["before"], row["after"])) in PAGE
    for figure in (row["start"]["perplexity"], row["pairs"], row["parameters"]):
        assert (f"{figure:,.2f}" if isinstance(figure, float) else f"{figure:,}") in PAGE
    for name in ("accuracy", "margin", "reward"):
        assert row["after"][name] > row["before"][name]


def test_what_was_learned_is_what_the_page_says() -> None:
    pretrain, finetune = RESULT["rows"][:2]
    assert pretrain["before"]["perplexity"] > 20 * pretrain["after"]["perplexity"]
    assert finetune["before"]["exact_match"] < 0.2
    assert finetune["after"]["exact_match"] > 0.9


def test_a_sample_is_told_on_one_line() -> None:
    sample = {"step": 1000, "text": "a\n `b`\x07", "perplexity": 12.345}
    assert told([sample]) == ["step 1,000, perplexity 12.35: a 'b'\ufffd"]
    assert told([{"step": 0, "text": "x" * 300, "exact_match": 0.5}]) == [
        "step 0, exact answers 50.0%: " + "x" * 200
    ]
