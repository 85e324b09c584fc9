"""The commands train ...: flags become settings, the table is printed, Ctrl-C says how to go on."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pyroclast.cli import main as cli
from pyroclast.cli import train as commands
from pyroclast.train import finetuning, pretraining
from pyroclast.train.result import Result

RESULT = Result(
    "run/final",
    {"perplexity": 1280.5, "exact_match": 0.125},
    {"perplexity": 25.25, "exact_match": 1.0},
    {"parameters": 12345, "precision": "float32", "tokens_per_s": 678.9},
)
OTHER = {"shape": "gpt2", "precision": "bfloat16", "method": "full"}


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    return int(end.value.code or 0)


@pytest.mark.parametrize("command", ["train pretrain", "train finetune"])
def test_every_flag_becomes_a_setting(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    kind = commands._RECIPES[command][0]
    values: dict[str, Any] = {}
    words = []
    for each in fields(kind):
        number = each.metadata["minimum"]
        values[each.name] = OTHER.get(
            each.name, None if number is None else type(each.default)(number)
        )
        words += [f"--{each.name.replace('_', '-')}", str(values[each.name])]
    seen: dict[str, Any] = {}

    def recipe(*arguments: Any, **options: Any) -> Result:
        seen["settings"] = arguments[-1]
        return RESULT

    monkeypatch.setattr(pretraining, "pretrain", recipe)
    monkeypatch.setattr(finetuning, "finetune", recipe)
    assert run(*command.split(), "a", "--out", "run", *words) == 0
    assert seen["settings"].as_dict() == values


def test_the_table_of_before_and_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def recipe(model: str, data: Path, out: Path, settings: Any, on_line: Any) -> Result:
        if on_line is not None:
            on_line({"step": 1, "loss": 2.0})
        return RESULT

    monkeypatch.setattr(finetuning, "finetune", recipe)
    assert run("train", "finetune", "m", "d.jsonl", "--out", "run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "|                        |   before |  after |",
        "|------------------------|---------:|-------:|",
        "| held-out perplexity    | 1,280.50 |  25.25 |",
        "| held-out exact answers |    12.5% | 100.0% |",
        "run/final: 12,345 parameters, float32, 679 tokens/s",
    ]
    assert run("train", "finetune", "m", "d.jsonl", "--out", "run", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"step": 1, "loss": 2.0}, RESULT.as_dict()]


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def recipe(*_: Any, **__: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "pretrain", recipe)
    assert run("train", "pretrain", "text.txt", "--out", "run") == 130
    assert "the same command goes on from the last checkpoint in run" in capsys.readouterr().err


def test_wrong_values_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "pretrain", "a", "--out", "run", "--learning-rate", "11") == 2
    assert "--learning-rate must be between 0 and 10, got 11.0" in capsys.readouterr().err


def test_a_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("the cat and the hat and the bat\n")
    words = ("train", "tokenizer", str(tmp_path / "text.txt"), "--out", str(tmp_path / "v"))
    assert run(*words, "--vocab-size", "260") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'v'}: 260 tokens\n"
    assert run(*words, "--json") == 0  # so short a text has no more pairs
    found = json.loads(capsys.readouterr().out)
    assert 260 < found["vocab_size"] < 300
    assert run("train", "tokenizer", str(tmp_path / "none"), "--out", str(tmp_path / "w")) == 1
    assert "none: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors"])
def test_a_vocabulary_does_not_replace_that_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "text.txt").write_text("the cat and the hat and the bat\n")
    model = tmp_path / "model"
    model.mkdir()
    for each in (name, "tokenizer.json"):
        (model / each).write_text("{}")
    assert run("train", "tokenizer", str(tmp_path / "text.txt"), "--out", str(model)) == 1
    assert f"holds '{name}', a model that has its own vocabulary" in capsys.readouterr().err
    assert (model / "tokenizer.json").read_text() == "{}"
