"""The benchmark of speculation, on the fake model and by a clock that only its steps move."""

import json

import numpy as np
import pytest

from fake_model import VOCAB_SIZE, FakeModel, fake_llm, hashed
from pyroclast.engine import stepper
from pyroclast.lab.speed import speculation, verify_costs
from pyroclast.lab.speed.speculation_counts import n_copied_tokens
from pyroclast.lab.speed.speculation_tasks import N_REQUESTS, TASKS

STEP_S, ROW_S = 0.001, 0.0002
SHORT_TASKS = {name: [text[:24] for text in texts] for name, texts in TASKS.items()}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Runs the command: the rows that it writes.  logits_of: see FakeModel."""
    now_s = 0.0
    logits_of = hashed

    def load(model, threads=None, **options):
        limits = {"max_seq_len": 2048, "n_blocks": 2048, "max_batch_tokens": 64, "max_logits": 64}
        if "draft" in options:
            options["draft"] = FakeModel(**limits)
        llm = fake_llm(logits_of, **limits, **options)

        def take_time():
            nonlocal now_s
            now_s += STEP_S + ROW_S * llm.model.batch.n_tokens

        llm.model.before_step = take_time
        return llm

    def run(words, logits=hashed):
        nonlocal logits_of
        logits_of = logits
        monkeypatch.setattr(speculation, "LLM", load)
        monkeypatch.setattr(speculation, "TASKS", SHORT_TASKS)
        for module in (stepper, verify_costs):
            monkeypatch.setattr(module, "perf_counter", lambda: now_s)
        path = tmp_path / "out.json"
        speculation.main("", f"{words} --json {path}".split())
        return json.loads(path.read_text())["rows"]

    return run


def test_a_forced_copy_is_drafted_and_faster(rows, capsys):
    [row] = rows("--part copy --model one -n 120 --repeat 3")
    assert row["test"] == "forced copy"
    assert row["n_tokens"] == 3 * 120
    assert row["n_tokens"] / 3 < row["n_accepted"] <= row["n_drafted"]
    assert 0.4 < row["copied"] < 0.8
    assert row["off_steps"] - row["on_steps"] == row["n_accepted"]
    assert row["off_tokens_per_s"] == pytest.approx(1 / (STEP_S + ROW_S))
    assert 1.2 < row["ratio"] == pytest.approx(row["on_tokens_per_s"] / row["off_tokens_per_s"])
    assert row["ratio_quartiles"] == pytest.approx([row["ratio"]] * 2)
    assert f"{row['n_accepted']} of {row['n_drafted']} drafts right" in capsys.readouterr().out


def test_each_task_is_a_row_for_each_batch(rows):
    found = rows("--part tasks --model one -n 8 -b 1 -b 3 --repeat 2")
    assert [(row["test"], row["n_batch"]) for row in found] == [
        (name, n) for name in TASKS for n in (1, 3)
    ]
    assert {row["n_requests"] for row in found} == {N_REQUESTS}
    for alone, batch in zip(found[::2], found[1::2], strict=True):
        assert alone["off_steps"] == alone["n_tokens"] == batch["n_tokens"]
        assert N_REQUESTS * 8 < alone["n_tokens"] <= 2 * N_REQUESTS * 8  # the text may end
        assert alone["n_tokens"] / 3 < batch["off_steps"] < alone["n_tokens"] / 2


def test_the_requests_of_a_task_are_different():
    for requests in TASKS.values():
        assert len(set(requests)) == len(requests) == N_REQUESTS


def test_no_answer_copies_another_one(rows):
    """All answers are equal, and repeat neither themselves nor their prompts."""

    def counts_up(history):
        found = np.zeros(VOCAB_SIZE, np.float32)
        n_written = history[::-1].index(ord("\n"))
        found[128 + n_written] = 50.0
        return found

    for row in rows("--part tasks --model one -n 40 -b 1 -b 8 --repeat 2", counts_up):
        assert row["n_tokens"] == 2 * N_REQUESTS * 40
        assert row["n_drafted"] == row["copied"] == 0
        assert row["on_steps"] == row["off_steps"]


@pytest.mark.parametrize(
    ("answer", "n_copied"),
    [("abcd", 4), ("xbcdefx", 5), ("abcxdef", 0), ("abcdxefgh", 8), ("abc", 0), ("", 0)],
)
def test_a_copied_token_is_one_of_four_in_a_row(answer, n_copied):
    assert n_copied_tokens(b"abcdefgh", answer.encode()) == n_copied


def test_a_draft_model_is_a_row_for_each_task_and_batch(rows):
    found = rows("--part draft --model one --draft two -n 12 -b 1 -b 3 --repeat 2")
    assert [(row["test"], row["n_batch"], row["draft"]) for row in found] == [
        ("draft model, random tokens", n, "two") for n in (1, 3)
    ]
    assert {row["n_tokens"] for row in found} == {2 * 12, 2 * 3 * 12}
    [first, *_] = rows("--part draft -n 4 -b 1 --repeat 2")
    assert first["test"] == f"draft model, {next(iter(TASKS))}"


def test_each_row_costs_what_it_adds_to_a_step(rows):
    [shallow, deep] = rows("--part costs --model one --depth 20 --depth 100 --repeat 4")
    assert (shallow["n_depth"], deep["n_depth"]) == (20, 100)
    expected = [(STEP_S + n * ROW_S) / (STEP_S + ROW_S) for n in range(1, 17)]
    for row in (shallow, deep):
        assert row["costs"] == pytest.approx(expected)
        assert row["step_s"][0] == pytest.approx(STEP_S + ROW_S)


def test_one_repetition_has_no_quartiles(capsys):
    with pytest.raises(SystemExit):
        speculation.main("", ["--part", "drafter", "--repeat", "1"])
    assert "--repeat must be at least 2, got 1" in capsys.readouterr().err


def test_a_draft_model_wants_one_model(capsys):
    with pytest.raises(SystemExit):
        speculation.main("", ["--part", "draft", "--draft", "small"])
    assert "--draft needs one --model" in capsys.readouterr().err


def test_reading_a_token_is_timed(rows):
    [row] = rows("--part drafter --repeat 5")
    assert 0 < row["nothing_us"] < 1000
    assert 0 < row["some_pairs_us"] < 1000
