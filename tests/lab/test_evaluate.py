"""`pyroclast eval`: tasks in files, and the figures over them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fake_model import BOS, fake_llm, spells
from pyroclast import LLM, PyroclastError, RequestError, SamplingParams
from pyroclast.cli import main as cli
from pyroclast.lab.evaluate import matching
from pyroclast.lab.evaluate.run import Result, evaluate, figures, surprise
from pyroclast.lab.evaluate.tasks import read_task

GREEDY = SamplingParams(temperature=0, max_tokens=8)


def task(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def run(llm: LLM, path: Path, params: SamplingParams = GREEDY) -> list[Result]:
    return evaluate(llm, read_task(path), params, lambda n_done: None)


def test_the_likeliest_choice_is_taken(tmp_path: Path) -> None:
    llm, choices = fake_llm(), ["one", "two words", "x"]
    scores = [score.logprob for score in llm.score("context", choices)]
    best = scores.index(max(scores))
    per_byte = [p / len(choice) for p, choice in zip(scores, choices, strict=True)]
    lines = [{"context": "context", "choices": choices, "answer": i} for i in range(3)]
    results = run(llm, task(tmp_path, *lines))
    assert [r.correct for r in results] == [i == best for i in range(3)]
    normalized = per_byte.index(max(per_byte))
    assert [r.correct_normalized for r in results] == [i == normalized for i in range(3)]
    assert results[0].logprobs == scores
    assert figures(results)["accuracy"] == {
        "value": pytest.approx(1 / 3),
        "stderr": pytest.approx(math.sqrt(2 / 9 / 3)),
        "n": 3,
    }


def test_an_answer_may_be_the_text_of_a_choice(tmp_path: Path) -> None:
    line = {"context": "c", "choices": ["a", "b"], "answer": "b"}
    assert read_task(task(tmp_path, line))[0].answers == (1,)


def test_generated_texts_are_compared(tmp_path: Path) -> None:
    llm = fake_llm(spells(" forty-two ", n_prompt=5))
    lines = [
        {"prompt": "what", "answer": "forty-two"},
        {"prompt": "what", "answer": ["42", "forty-two"]},
        {"prompt": "what", "answer": "forty"},
        {"prompt": "what", "regex": "^ *forty-?two"},
        {"prompt": "what", "regex": "[0-9]"},
    ]
    results = run(llm, task(tmp_path, *lines), GREEDY.replace(max_tokens=12))
    assert [r.correct for r in results] == [True, True, False, True, False]
    assert {r.text for r in results} == {" forty-two "}
    found = figures(results)
    assert (found["exact_match"]["value"], found["exact_match"]["n"]) == (pytest.approx(2 / 3), 3)
    assert (found["regex_match"]["value"], found["regex_match"]["n"]) == (0.5, 2)


def test_an_item_that_cannot_be_run_counts_as_wrong(tmp_path: Path) -> None:
    lines = [{"prompt": "x" * 500, "answer": "y"}, {"id": "ok", "prompt": "x", "answer": "never"}]
    too_long, other = run(fake_llm(), task(tmp_path, *lines))
    assert (too_long.correct, other.correct, other.error) == (False, False, None)
    assert "500 tokens" in str(too_long.error).replace("501", "500")


def test_a_choice_that_does_not_fit_counts_as_wrong(tmp_path: Path) -> None:
    fits = {"context": "context", "choices": ["one", "two"], "answer": 0}
    lines = [fits, {**fits, "choices": ["one", "x" * 500]}, {**fits, "context": "y" * 500}, fits]
    results = run(fake_llm(), task(tmp_path, *lines))
    [alone] = run(fake_llm(), task(tmp_path, fits))
    for result in (results[0], results[3]):
        assert (result.logprobs, result.error) == (alone.logprobs, None)
    for result in results[1:3]:
        assert (result.correct, result.correct_normalized) == (False, False)
        assert "tokens" in str(result.error)
    assert figures(results)["accuracy"]["n"] == 4


def test_a_pattern_over_its_deadline_counts_as_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "SECONDS", 0.05)
    llm = fake_llm(spells("a" * 60 + "b", n_prompt=5))
    lines = [{"prompt": "what", "regex": "(a|aa)+$"}, {"prompt": "what", "regex": "b$"}]
    slow, other = run(llm, task(tmp_path, *lines), GREEDY.replace(max_tokens=61))
    assert (slow.correct, other.correct, other.error) == (False, True, None)
    assert slow.text == other.text == "a" * 60 + "b"
    assert "takes more than 0.05 s" in str(slow.error)


def test_every_token_of_a_long_text_is_scored_once_with_half_a_context(tmp_path: Path) -> None:
    llm = fake_llm(max_seq_len=16)
    text = "a text that is much longer than the context of sixteen"
    ids = [BOS, *text.encode()]
    wanted = []
    for position in range(1, len(ids)):
        # The windows begin at 0, 8, 16, ...; each scores its second half, the first all of it.
        begin = 0 if position < 16 else position // 8 * 8 - 8
        [score] = llm.score([ids[begin : position + 1]])
        assert score.logprobs[-1] is not None
        wanted.append(score.logprobs[-1].logprob)
    logprob, n_scored = surprise(llm, text)
    assert n_scored == len(ids) - 1
    assert logprob == pytest.approx(math.fsum(wanted), abs=1e-9)
    [result] = run(llm, task(tmp_path, {"text": text}))
    found = figures([result])
    assert found["perplexity"]["value"] == pytest.approx(math.exp(-logprob / n_scored))
    bits = -logprob / math.log(2) / len(text)
    assert found["bits_per_byte"] == {"value": pytest.approx(bits), "n_bytes": len(text)}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1", "not valid JSON: Expecting ',' delimiter, at character"),
        ("3", "must be a JSON object, got 3"),
        ("{}", "its keys are none; a line is"),
        ('{"promt": "a", "answer": "b"}', "its keys are 'promt', 'answer'"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "choices must be 2 to 1024 texts"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "none of them empty"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "its index from 0 to 1; got 2"),
        ('{"context": "a", "choices": ["b", "c"], "answer": true}', "got true"),
        ('{"context": "", "choices": ["b", "c"], "answer": 0}', "context must be a text"),
        ('{"prompt": "a", "answer": []}', "answer must be a text or a list of texts"),
        ('{"prompt": 3, "answer": "b"}', "prompt must be a text"),
        ('{"messages": "a", "answer": "b"}', "messages must be a list, got str"),
        ('{"prompt": "a", "regex": ""}', "regex must be a text"),
        ('{"text": null}', "text must be a text"),
        ('{"text": "a", "id": "1"}', "the id '1' was given already"),
        ('{"text": "a", "id": []}', "id must be text or a whole number"),
    ],
)
def test_lines_that_are_no_items(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"text": "first"}\n' + line + "\n")
    with pytest.raises(RequestError) as raised:
        read_task(path)
    assert "line 2: " in str(raised.value)
    assert words in str(raised.value)


def test_a_task_without_items_says_what_a_line_is(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n")
    with pytest.raises(RequestError, match=r'holds no items; a line is \{"context"'):
        read_task(path)


def test_patterns_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SECONDS", 0.05)
    [pattern] = matching.compiled({"(a|aa)+$"}).values()
    with pytest.raises(PyroclastError, match=r"takes more than 0\.05 s on a text of 101 char"):
        matching.is_found(pattern, "a" * 100 + "b")
    with pytest.raises(RequestError, match="is not valid"):
        matching.compiled({"("})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], demo_file: str) -> None:
    line = {"context": "The capital of France is", "choices": [" Paris", " Rome"], "answer": 0}
    text = {"prompt": "The capital of France is", "answer": "Paris."}
    path, out = task(tmp_path, line, text), tmp_path / "results.jsonl"
    argv = ["eval", str(path), "-m", demo_file, "-t", "1", "-n", "2", "--out", str(out)]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*argv, *more])
        assert ended.value.code == 0
    shown, found = capsys.readouterr().out.rsplit("\n{", 1)
    assert "accuracy                       1.0000 ± 0.0000 (1 item)" in shown
    assert json.loads("{" + found)["exact_match"] == {"value": 1.0, "stderr": 0.0, "n": 1}
    results = [json.loads(each) for each in out.read_text().splitlines()]
    assert [each["id"] for each in results] == ["1", "2"]
    plain = tmp_path / "text.txt"
    plain.write_text("Paris is the capital of France.")
    with pytest.raises(SystemExit):
        cli.main(["eval", str(plain), "-m", demo_file, "-t", "1", "--json"])
    with LLM(demo_file, threads=1) as llm:
        [score] = llm.score("Paris is the capital of France.")
    found = json.loads(capsys.readouterr().out)
    assert found["perplexity"]["value"] == pytest.approx(score.perplexity, rel=1e-12)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_text_of_one_token_has_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demo_file: str, more: list[str]
) -> None:
    plain = tmp_path / "one.txt"
    plain.write_text("a")
    with LLM(demo_file, threads=1) as llm:
        assert len(llm.tokenizer.encode("a")) == 1
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", str(plain), "-m", demo_file, "-t", "1", *more])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert "nothing is scored: a text's first token has no context" in err


def test_results_do_not_replace_their_task_or_miss_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = task(tmp_path, {"text": "some text"})
    content = path.read_bytes()
    for out, words in (
        (path, f"--out must not be {path}, which would be lost"),
        (tmp_path, f"--out must be a file, but {tmp_path} is a folder"),
        (tmp_path / "none" / "out", f"{tmp_path / 'none'}: no such folder; make it first"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["eval", str(path), "-m", "no-model", "--out", str(out)])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    assert path.read_bytes() == content


@pytest.fixture
def demo_file() -> str:
    from demo import demo_path

    return str(demo_path())
