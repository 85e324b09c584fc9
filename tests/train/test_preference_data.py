"""Pairs, prompts and rewards by name: what is read, what is refused, and as which tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from pyroclast.errors import TemplateError, TrainingError
from pyroclast.train.pair_tokens import PairTokens
from pyroclast.train.prompts import read_pairs, read_prompts
from pyroclast.train.rewards import as_reward
from training_chats import TEMPLATE, UNMARKED


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rewards_of_functions() -> None:
    answers = ["one two", "Please", '{"a": 1}']
    chat = [[{"role": "assistant", "content": each}] for each in answers]
    deep = ["[" * 100_000, "NaN", "[-Infinity]"]
    assert as_reward("json")(completions=deep) == [0.0, 0.0, 0.0]
    for completions in (answers, chat):
        assert as_reward("length:2")(completions=completions) == [0.0, -0.5, 0.0]
        assert as_reward("word:please")(completions=completions) == [0.0, 1.0, 0.0]
        assert as_reward("json")(completions=completions) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "name", ["length:0", "length:x", "length:" + "9" * 5000, "length", "word:", "nothing", ""]
)
def test_rewards_that_there_are_not(name: str) -> None:
    with pytest.raises(TrainingError, match="length:"):
        as_reward(name)


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
USER = {"role": "user", "content": "hi"}


@pytest.mark.oracle
def test_pairs_as_they_are_measured(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny.write_hf_tokenizer(tmp_path, tiny.BASE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pairs = PairTokens(tokenizer, 50, "pairs.jsonl")
    found = pairs.of(1, {**GOOD, "rejected": ""})
    assert found.rejected == [tokenizer.eos_token_id] and len(found.chosen) == 2
    cut = pairs.of(1, {**GOOD, "chosen": "the cat sat " * 20})
    assert len(cut.prompt) + len(cut.chosen) == 50
    tokenizer.chat_template = TEMPLATE
    chat = {"prompt": [USER], "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}
    chosen = tokenizer.decode(pairs.of(1, chat).chosen)
    assert chosen.startswith("a") and "assistant" not in chosen
    for template, words in (
        (UNMARKED.replace("<|bos|>", "{{ loop.length }}"), "does not mark where an answer"),
        ("{{ raise_exception('no') }}", "no"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(TemplateError, match=f"pairs.jsonl, pair 7: .*{words}"):
            pairs.of(7, chat)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("[1]", "line 2: must be a JSON object"),
        (json.dumps({**GOOD, "prompt": ""}), 'line 2: "prompt" must be text'),
        (json.dumps({**GOOD, "prompt": [{"role": "user"}]}), 'line 2: "prompt"'),
        (json.dumps({**GOOD, "rejected": 1}), 'line 2: "rejected" must be text, got 1'),
        (json.dumps({**GOOD, "rejected": "a"}), "line 2: chosen and rejected are the same"),
    ],
)
def test_pairs_that_are_refused(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(TrainingError, match=said):
        read_pairs(path)


def test_pairs_and_prompts_as_messages(tmp_path: Path) -> None:
    user = [{"role": "user", "content": "hi"}]
    answer = {"role": "assistant", "content": "a"}
    row = {"prompt": user, "chosen": [answer], "rejected": "b"}
    [pair] = read_pairs(write_lines(tmp_path / "pairs.jsonl", [row]))
    assert pair["chosen"] == [answer] and pair["rejected"] == [{**answer, "content": "b"}]
    path = write_lines(tmp_path / "prompts.jsonl", [{"messages": user}, {"prompt": "x"}])
    assert read_prompts(path) == [user, "x"]
    path.write_text('{"prompt": "one\u2028line\x85"}\n', encoding="utf-8")
    assert read_prompts(path) == ["one\u2028line\x85"]
