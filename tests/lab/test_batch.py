"""Batches of requests in files: `pyroclast run`."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from pyroclast import LLM, RequestError, SamplingParams
from pyroclast.cli import main as cli
from pyroclast.cli import run as run_command
from pyroclast.lab.batch.answers import AnswerFile
from pyroclast.lab.batch.requests import hashes_of, read_requests
from pyroclast.lab.batch.run import run_batch

GREEDY = SamplingParams(temperature=0, max_tokens=4)
LINES = [
    {"prompt": "a prompt"},
    {"id": "two", "prompt": [3, 4, 5], "params": {"n": 2, "seed": 1, "temperature": 1}},
    {"id": 7, "prompt": "another", "params": {"max_tokens": 2}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("batch") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    return str(folder)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: Any) -> tuple[int, str, str]:
        flags = ["-m", model, "--threads", "1", "--temperature", "0", "-n", "4"]
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", *flags, "--out", str(tmp_path / "out.jsonl"), *map(str, argv)])
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    return call


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def answers_in(path: Path) -> list[Any]:
    return sorted(
        map(json.loads, path.read_text().splitlines()), key=lambda a: (a["line"], a["index"])
    )


def without_cache(answers: list[Any]) -> list[Any]:
    """What does not depend on which request came first, nor on fresh seeds of greedy ones."""
    return [{k: v for k, v in a.items() if k not in ("n_cached_tokens", "seed")} for a in answers]


def test_answers_are_those_of_generate(run: Any, tmp_path: Path, model: str) -> None:
    code, out, _ = run(written(tmp_path / "in.jsonl", LINES))
    assert (code, out.split(":")[1].split(",")[0]) == (0, " 3 requests")
    found = answers_in(tmp_path / "out.jsonl")
    assert [(a["id"], a["index"]) for a in found] == [("1", 0), ("two", 0), ("two", 1), ("7", 0)]
    with LLM(model, threads=1) as llm:
        for line, answers in zip(LINES, (found[:1], found[1:3], found[3:]), strict=True):
            params = GREEDY.replace(**line.get("params", {}))  # type: ignore[arg-type]
            wanted = llm.generate(line["prompt"], params)  # type: ignore[arg-type]
            assert [a["token_ids"] for a in answers] == [c.token_ids for c in wanted]
            assert [a["text"] for a in answers] == [c.text for c in wanted]


def test_a_run_that_was_killed_anywhere_goes_on(run: Any, tmp_path: Path) -> None:
    requests, out = written(tmp_path / "in.jsonl", LINES), tmp_path / "out.jsonl"
    run(requests)
    whole, wanted = out.read_bytes(), without_cache(answers_in(out))
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for end in sorted({0, 1, len(whole) // 2, *ends, *(e - 1 for e in ends)}):
        out.write_bytes(whole[:end])
        code, text, _ = run(requests, "--json")
        assert (code, without_cache(answers_in(out))) == (0, wanted), end
        summary = json.loads(text)
        assert summary["n_kept"] + summary["n_requests"] == len(LINES)


def test_nothing_left_loads_no_model(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = written(tmp_path / "in.jsonl", LINES)
    run(requests)
    monkeypatch.setattr(run_command, "load", lambda args: 1 / 0)
    code, out, _ = run(requests)
    assert (code, "0 requests, 3 kept" in out) == (0, True)


def test_answers_to_other_requests_are_not_kept(run: Any, tmp_path: Path, model: str) -> None:
    requests, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    run(written(requests, LINES))
    whole = out.read_bytes()
    other = [{**LINES[0], "prompt": "another prompt"}, *LINES[1:]]
    said = "answers another request '1': what it asks, its parameters, the model"
    for lines, flags in (
        (other, []),
        ([{**LINES[0], "params": {"top_k": 3}}, *LINES[1:]], []),
        (LINES, ["--top-p", "0.5"]),
        (LINES, ["--model", f"{model}@q8_0"]),
        (LINES, ["--adapter", "a=b"]),
    ):
        code, _, err = run(written(requests, lines), *flags)
        assert (code, "answers another request" in err, out.read_bytes()) == (1, True, whole)
    assert said in run(written(requests, other))[2]
    lines = [json.loads(line) for line in whole.splitlines()]
    older = [{k: v for k, v in line.items() if k != "request_hash"} for line in lines]
    written(out, older)
    code, text, _ = run(written(requests, other))
    assert (code, "0 requests, 3 kept" in text) == (0, True), "lines of older files have no hash"


def test_the_hash_of_a_request_does_not_count_defaults(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "prompt": "p", "params": {"logit_bias": {"3": -1}, "stop": ["x"]}},
        {"id": "b", "prompt": "p", "params": {"logit_bias": {"3": -1}, "stop": "x", "top_p": 1}},
        {"id": "c", "prompt": "p", "params": {"structured": {"json": {"type": "object"}}}},
        {"id": "d", "messages": [{"role": "user", "content": "p"}], "template": {"thinking": True}},
    ]
    found = hashes_of(read_requests(written(tmp_path / "in.jsonl", lines), GREEDY), ["m"])
    assert found["a"] == found["b"]
    assert len(set(found.values())) == 3


def test_a_request_that_fails_is_told_and_the_others_run(run: Any, tmp_path: Path) -> None:
    bad = {"id": "long", "prompt": [1] * 10_000}
    code, _, err = run(written(tmp_path / "in.jsonl", [bad, *LINES]))
    assert (code, "1 request failed" in err) == (1, True)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    [failed] = [line for line in lines if "error" in line]
    assert failed["id"] == "long"
    assert "10000 tokens" in failed["error"]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object, got []"),
        ("{}", 'give either "prompt" or "messages"'),
        ('{"prompt": "a", "messages": []}', 'give either "prompt" or "messages"'),
        ('{"prompt": 3}', "text or a list of token ids"),
        ('{"prompt": ["a"]}', "text or a list of token ids"),
        ('{"prompt": [true]}', "text or a list of token ids"),
        ('{"prompt": []}', "prompt is empty: give at least one"),
        ('{"prompt": ""}', "prompt is empty: give at least one"),
        ('{"messages": "a"}', "messages must be a list with at least one"),
        ('{"messages": []}', "got an empty list"),
        ('{"messages": ["a"]}', "messages[0] must be a dict, got str"),
        ('{"messages": [{"content": "a"}]}', "messages[0] needs a 'role' such as 'user'"),
        ('{"messages": [{"role": "user"}]}', "messages[0] needs a 'content'"),
        ('{"prompt": "a", "params": 3}', "params must be a JSON object, got int"),
        ('{"prompt": "a", "params": {"temprature": 1}}', "did you mean 'temperature'"),
        ('{"prompt": "a", "params": {"self": 1}}', "unknown sampling parameter 'self'"),
        ('{"prompt": "a", "params": {"logits_processors": []}}', "cannot be given in a file"),
        ('{"prompt": "a", "template": {}}', 'template goes with "messages"'),
        ('{"promt": "a"}', "unknown key 'promt'; known: id, prompt"),
        ('{"prompt": "a", "id": ""}', "id must be text or a whole number"),
        ('{"prompt": "a", "id": "1"}', "given in line 1 already"),
        ('{"prompt": "\\ud800"}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_lines_that_are_no_requests(tmp_path: Path, line: str | bytes, words: str) -> None:
    path = tmp_path / "in.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"prompt": "first"}\n\n' + data + b"\n")
    with pytest.raises(RequestError) as raised:
        read_requests(path, GREEDY)
    assert "line 3: " in str(raised.value)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hello\n", "line 1: not a line of answers; choose another file"),
        ("notes without a newline", "line 1: not a line of answers; choose another file"),
        ('{"id": "other"}\n', "line 1: answers 'other', which is not among the requests"),
        ('{"id": "1"}\n{"id": "1"}\n', "line 2: a second answer to '1'"),
        ('{"id": "1", "request_hash": "b"}\n', "line 1: answers another request '1'"),
        ('{"id": "1", "request_hash": []}\n', "line 1: answers another request '1'"),
        ('{"id": "two"}\n{"id": "1"}\n', "line 2: the answer to 'two' before it lacks lines"),
    ],
)
def test_a_file_that_holds_something_else_stays_as_it_is(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError, match=words):
        AnswerFile(path, {"1": 1, "two": 2}, {"1": "a", "two": "b"})
    assert path.read_text() == content


def test_only_the_end_of_a_file_is_taken_as_half_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyroclast.lab.batch.answers._LINE_BYTES", 64)
    path, first = tmp_path / "out.jsonl", '{"id": "1"}\n'
    names = {"1": 1, "2": 1, "3": 1}, dict.fromkeys("123", "a")
    long = first + '{"id": "2", "text": "' + "x" * 200
    path.write_text(long + '"}\n{"id": "3"}\n')
    whole = path.read_bytes()
    with pytest.raises(RequestError, match="line 2: longer than 64 bytes; choose another file"):
        AnswerFile(path, *names)
    assert path.read_bytes() == whole
    path.write_text(long)
    with AnswerFile(path, *names) as found:
        assert found.done == {"1"}
    assert path.read_text() == first


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another run is writing it"):
            AnswerFile(path, {}, {})


def test_an_answer_that_cannot_be_written_ends_the_run(model: str, tmp_path: Path) -> None:
    requests = read_requests(written(tmp_path / "in.jsonl", LINES), GREEDY)

    def full(lines: list[dict[str, Any]]) -> None:
        raise OSError(28, "No space left on device")

    with LLM(model, threads=1) as llm:
        with pytest.raises(OSError, match="No space left"):
            run_batch(llm, requests, full, lambda n_done: None)
        assert llm.generate("a prompt", GREEDY)  # the model is still of use


def test_progress_counts_requests(model: str, tmp_path: Path) -> None:
    requests = read_requests(written(tmp_path / "in.jsonl", LINES), GREEDY)
    seen: list[int] = []
    with LLM(model, threads=1, max_seqs=1) as llm:
        totals = run_batch(llm, requests, lambda lines: None, seen.append)
    assert seen == [1, 2, 3]
    assert (totals.n_requests, totals.n_failed) == (3, 0)
    assert totals.n_completion_tokens == 4 + 2 * 4 + 2
