"""`pyroclast next` on a tiny model: what it shows is what the engine does."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.cli import grid, terminal
from pyroclast.cli import main as cli
from pyroclast.sampling import trace

PROMPT = "a prompt"
STAGES = ("--temperature", 0.7, "--top-k", 30, "--top-p", 0.6, "--repetition-penalty", 1.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("next") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    return str(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], model: str) -> Any:
    def call(*argv: Any) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["next", PROMPT, "-m", model, "--threads", "1", *map(str, argv)])
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        return out

    return call


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def reconfigure(self, **options: Any) -> None:
        """Like a text stream's."""


def on_terminal(monkeypatch: pytest.MonkeyPatch, model: str, columns: int, *argv: Any) -> str:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["next", PROMPT, "-m", model, "--threads", "1", *map(str, argv)])
    assert ended.value.code == 0
    return terminal.getvalue()


def test_it_draws_what_the_engine_draws(run: Any, model: str) -> None:
    with LLM(model, threads=1) as llm:
        for seed in range(5):
            params = SamplingParams(
                temperature=0.7,
                top_k=30,
                top_p=0.6,
                repetition_penalty=1.5,
                seed=seed,
                max_tokens=1,
            )
            [completion] = llm.generate(PROMPT, params)
            shown = json.loads(run("--json", *STAGES, "--seed", seed))
            assert shown["token_id"] == completion.token_ids[0]
            assert shown["position"] == len(shown["prompt_token_ids"])


def test_json_is_the_whole_trace(run: Any, model: str) -> None:
    shown = json.loads(run("--json", *STAGES, "--seed", 3, "--top", 4))
    with LLM(model, threads=1) as llm:
        ids = llm.tokenizer.encode(PROMPT)
        logits = llm.logits(PROMPT)[-1]
    params = SamplingParams(temperature=0.7, top_k=30, top_p=0.6, repetition_penalty=1.5, seed=3)
    want = trace(logits, params, prompt_ids=ids, position=len(ids), n_tokens=4).as_dict()
    assert [s["name"] for s in shown["stages"]] == [
        "model",
        "penalties",
        "temperature",
        "top_k",
        "top_p",
    ]
    assert shown["token_id"] == want["token_id"]
    assert shown["u"] == want["u"]
    assert [t["token_id"] for t in shown["tokens"]] == [t["token_id"] for t in want["tokens"]]
    assert math.isclose(shown["stages"][-1]["entropy"], want["stages"][-1]["entropy"], rel_tol=1e-4)
    assert shown["params"]["top_k"] == 30
    assert all(token["text"] for token in shown["tokens"])


def test_penalties_see_the_prompt(run: Any) -> None:
    plain, penalized = (
        json.loads(run("--json", "--temperature", 0, "--top", 320, *more))
        for more in ((), ("--repetition-penalty", 2))
    )
    stage = [s["name"] for s in penalized["stages"]]
    assert stage == ["model", "penalties", "greedy"]
    before = {t["token_id"]: t["probs"]["model"] for t in plain["tokens"]}
    after = {t["token_id"]: t["probs"]["penalties"] for t in penalized["tokens"]}
    for token_id in set(penalized["prompt_token_ids"]):
        assert after[token_id] < before[token_id]


def test_a_pipe_gets_plain_text(run: Any) -> None:
    out = run(*STAGES, "--seed", 1, "--top", 5)
    assert out.isascii()
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    for word in (
        "P(next | context)",
        "Softmax",
        "0.7",
        "removed",
        "perplexity",
        "the draw",
        "seed 1",
    ):
        assert word in out


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_terminal_gets_bars_that_fit(
    monkeypatch: pytest.MonkeyPatch, model: str, columns: int
) -> None:
    out = on_terminal(monkeypatch, model, columns, *STAGES, "--seed", 1)
    assert "\x1b[" in out
    assert re.search("[▏▎▍▌▋▊▉█]", out)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(grid.width, lines)) <= columns


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit):
        cli.main(["next", PROMPT, "-m", model, "--threads", "1"])
    assert "\x1b" not in terminal.getvalue()


def test_greedy_needs_no_chance(run: Any) -> None:
    out = run("--temperature", 0)
    assert "Nothing is left to chance" in out
    assert "the draw" not in out


def test_top_says_how_many_are_followed(run: Any) -> None:
    counts = [
        len(json.loads(run("--json", "--temperature", 0, "--top", k))["tokens"]) for k in (1, 7)
    ]
    assert counts == [1, 7]


def test_only_hidden_tokens_have_a_line_of_others(run: Any) -> None:
    out = run("--temperature", 0, "--top", 3)
    model_stage, greedy_stage = out.split("1. greedy")
    assert re.search(r"[\d,]+ other tokens together: [\d.]+%", model_stage)
    assert "together" not in greedy_stage


def test_a_text_is_chosen_token_by_token(run: Any, model: str) -> None:
    shown = json.loads(run("--json", *STAGES, "--seed", 5, "-n", 4))
    params = SamplingParams(
        temperature=0.7, top_k=30, top_p=0.6, repetition_penalty=1.5, seed=5, max_tokens=4
    )
    with LLM(model, threads=1) as llm:
        [completion] = llm.generate(PROMPT, params)
        texts = [
            llm.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in completion.token_ids
        ]
    assert [step["token_id"] for step in shown["steps"]] == completion.token_ids
    assert [step["chosen"] for step in shown["steps"]] == texts
    for i, step in enumerate(shown["steps"]):
        assert step["context_token_ids"] == shown["prompt_token_ids"] + completion.token_ids[:i]
        assert step["position"] == len(step["context_token_ids"])
    assert run(*STAGES, "--seed", 5, "-n", 4).count("next token: ") == 4


def test_temperatures_stand_side_by_side(run: Any) -> None:
    flags = ("--top-k", 5, "--seed", 1, "--compare", "0,0.5,1,2")
    shown = json.loads(run("--json", *flags, "--top", 4))
    assert [each["temperature"] for each in shown["compared"]] == [0, 0.5, 1, 2]
    alone = json.loads(run("--json", "--top-k", 5, "--temperature", 0.5, "--seed", 1, "--top", 4))
    probs = shown["compared"][1]["probs"]
    assert probs == {str(t["token_id"]): t["probs"]["top_k"] for t in alone["tokens"]}
    entropies = [each["entropy"] for each in shown["compared"]]
    assert entropies == sorted(entropies)
    out = run(*flags, "--top", 4)
    _, table = out.split("temperatures side by side")
    assert table.split()[:4] == ["T=0", "T=0.5", "T=1", "T=2"]
    assert len(table.strip().splitlines()) == 1 + 4 + 1


def test_many_temperatures_fit_the_page(run: Any) -> None:
    out = run("--compare", ",".join(str(0.1 * i) for i in range(1, 17)))
    assert max(map(len, out.splitlines())) <= 100
    assert out.count("T=") == 16


def test_the_context_shows_its_tokens(run: Any, model: str) -> None:
    out = run("--temperature", 0)
    with LLM(model, threads=1) as llm:
        pieces = [grid.piece(llm.tokenizer, i) for i in llm.tokenizer.encode(PROMPT)]
    assert "   " + " ".join(pieces) in out
    assert f"context: {len(pieces)} tokens;" in out


def test_of_a_long_context_the_last_tokens_show(model: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["next", "word " * 30, "-m", model, "--threads", "1"])
    out = capsys.readouterr().out
    assert re.search(r"context: \d+ tokens; \d+ before, then in quotes", out)
    assert len(out.split("0. model")[0].splitlines()) < 8


def test_the_first_stage_has_logits(run: Any) -> None:
    shown = json.loads(run("--json", "--temperature", 0, "--top", 1))
    model_stage = run("--temperature", 0, "--top", 1).split("1. greedy")[0]
    assert f" {shown['tokens'][0]['logit']:.2f} " in model_stage


def test_wrong_usage(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, word in (
        (("--top", "0"), "--top"),
        (("--compare", "warm"), "--compare"),
        (("--compare", "-1"), "--compare"),
        (("--top-p", "2"), "top_p"),
        (("-n", "0"), "-n"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["next", PROMPT, "-m", model, *argv])
        assert ended.value.code == 2
        assert word in capsys.readouterr().err


# ---- text on a grid --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "columns", "drawn"),
    [
        (0.0, 10, ""),
        (1e-9, 10, "▏"),
        (0.1, 10, "█"),
        (0.15, 10, "█▌"),
        (0.5, 3, "█▌"),
        (1.0, 4, "████"),
    ],
)
def test_bars_in_eighths(share: float, columns: int, drawn: str) -> None:
    assert grid.bar(share, columns) == drawn


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("\u00e9", 1), ("", 0)]
)
def test_widths(text: str, columns: int) -> None:
    assert grid.width(text) == columns


@pytest.mark.parametrize(
    "text", ["short", "a long piece of text", "日本語のテキスト", "xe\u0301" * 9]
)
@pytest.mark.parametrize("columns", [4, 9, 16])
def test_padded_texts_are_exactly_as_wide_as_asked(text: str, columns: int) -> None:
    assert grid.width(grid.pad(text, columns)) == columns


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "0%"), (1.0, "100.00%"), (0.1234, "12.34%"), (0.0008, "0.0800%"), (2e-7, "2e-05%")],
)
def test_percents_keep_their_columns(p: float, text: str) -> None:
    assert grid.percent(p).strip() == text
    assert len(grid.percent(p)) == 8


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (1000, "1,000 tokens")]
)
def test_a_number_and_its_noun_agree(n: int, text: str) -> None:
    assert terminal.counted(n, "token") == text


def test_html_writes_the_page_beside_the_text(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Any] = []

    def draw_page(llm: Any, text: str, params: Any, *, adapter: str | None) -> str:
        made.append((text, params.seed, params.temperature, adapter))
        return "<!doctype html>é"

    monkeypatch.setattr("pyroclast.lens.page.is_built", lambda: True)
    monkeypatch.setattr("pyroclast.lens.export.draw_page", draw_page)
    path = tmp_path / "next.html"
    out = run("--html", path, "--seed", 7, "--temperature", 0.5)
    assert out.endswith(f"{path}: open it in a browser\n") and "temperature" in out
    assert path.read_text(encoding="utf-8") == "<!doctype html>é"
    assert json.loads(run("--html", path, "--json"))["params"]["seed"] < 2**32
    assert made[0] == (PROMPT, 7, 0.5, None) and len(made) == 2
    monkeypatch.setattr("pyroclast.lens.page.is_built", lambda: False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["next", PROMPT, "-m", "none", "--html", str(path)])
    assert ended.value.code == 1 and "make page" in capsys.readouterr().err
