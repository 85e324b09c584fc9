"""Result files, and the benchmarks of sampling, of the cold start and of Python's overhead."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from pyroclast.errors import KernelError
from pyroclast.lab.speed import (
    cold_start,
    overhead,
    overhead_pair,
    overhead_steps,
    sampling,
    sampling_peers,
)
from pyroclast.lab.speed.result_file import dump, without_samples, write_result
from pyroclast.lab.speed.sample_call import usable_variants
from pyroclast_kernels.sample import cases

RESULTS = Path(__file__).parents[2] / "bench" / "results"


# ---- files ---------------------------------------------------------------------------------


def test_a_row_is_a_line():
    rows = [{"test": "a", "quartiles": [1.5, 2]}, {"test": "b", "deep": {"rows": [1, 2]}}]
    result = {"made_with": {"cpu": "x", "load": [1, 2]}, "rows": rows}
    text = dump(result)
    assert json.loads(text) == result and text.endswith("}\n")
    assert [line.rstrip(",") for line in text.splitlines()] == [
        "{",
        '"made_with": {"cpu": "x", "load": [1, 2]}',
        '"rows": [',
        *map(json.dumps, rows),
        "]",
        "}",
    ]


def test_rows_by_name_and_those_of_a_suite_are_lines_too():
    named = {"rows": {"one": {"n": 1}, "two": {"n": 2}}}
    assert '\n"one": {"n": 1},\n"two": {"n": 2}\n' in dump(named)
    suite = {"parts": {"a": {"result": {"rows": [1, 2]}}, "b": {"failed": "why"}}}
    text = dump(suite)
    assert json.loads(text) == suite
    assert "[\n1,\n2\n]" in text and '\n"b": {"failed": "why"}\n' in text
    assert json.loads(dump({"rows": []})) == {"rows": []}


def test_files_keep_no_single_runs():
    row = {"median_ts": 2, "samples_ts": [1, 2, 3], "n_samples": 3}
    assert without_samples(row) == {"median_ts": 2, "n_samples": 3}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "g.json"
    write_result(path, {"a": 1})
    with pytest.raises(TypeError):
        write_result(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["g.json"]


def test_committed_results_are_light():
    """kernels.json has its own format."""
    for path in RESULTS.glob("*.json"):
        if path.name.startswith("kernels") or path.stem.endswith("_local"):
            continue
        text = path.read_text()
        assert dump(json.loads(text)) == text, path.name
        assert '"samples' not in text, path.name


# ---- sampling ------------------------------------------------------------------------------


def test_contenders_take_turns(monkeypatch):
    log, clock = [], iter(range(10**6))
    monkeypatch.setattr(sampling.time, "perf_counter", lambda: 0.1 * next(clock))
    runs = {name: lambda name=name: log.append(name) for name in ("a", "b")}
    found = sampling.in_turn(runs, {"b": lambda: log.append("reset")}, seconds=0)
    # A run that does not count, unless there is a reset; at least ten rounds.
    assert log == ["a", "a", "reset", "b"] * 10
    assert {name: each["n"] for name, each in found.items()} == {"a": 10, "b": 10}
    assert len(sampling.in_turn(runs, {}, seconds=2)) == 2 and len(log) > 40 + 10 * 4


def test_a_wrong_variant_is_not_timed(monkeypatch):
    logits = cases.RowCase("wide", 300).logits()[None]
    [variant, *_] = [name for name in usable_variants("sample") if name != "numpy"]
    sampling.check(variant, logits, {"temperature": 0.8})
    sample_call = sampling.sample_call

    def other_token(name, logits, params, n_threads=1):
        changed = -logits if name == variant else logits
        return sample_call(name, np.ascontiguousarray(changed), params, n_threads)

    monkeypatch.setattr(sampling, "sample_call", other_token)
    with pytest.raises(KernelError, match=f"{variant} disagrees with the reference on"):
        sampling.check(variant, logits, {"temperature": 0.0})


def test_every_setting_and_kind_of_logits_is_a_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sampling, "torch_version", lambda: "")
    monkeypatch.setattr(sampling, "in_turn", lambda runs, resets, s: dict.fromkeys(runs, TIMED))
    monkeypatch.setattr(sampling.cases, "VOCAB_SIZE", 400)
    [variant, *_] = [name for name in usable_variants("sample") if name != "numpy"]
    out = tmp_path / "out.json"
    sampling.main("", ["--variants", variant, "--kinds", "wide", "--out", str(out)])
    result = json.loads(out.read_text())
    expected = {f"{title}, wide" for title in sampling.TABLE} | {f"32 rows, {variant}"}
    expected |= {f"top_p 0.95, {kind}" for kind in cases.LOGITS} | {"softmax, wide"}
    assert set(result["rows"]) == expected
    assert list(result["rows"]["greedy, wide"]) == ["numpy", "reference", variant]
    assert "numpy choice" in result["rows"]["temperature, wide"]
    assert result["machine"]["torch"] == "not installed" and result["machine"]["commit"]
    shown = capsys.readouterr().out
    assert "torch is not installed" in shown and "numpy / it = 1.00" in shown


TIMED = {"median_us": 2.0, "iqr_us": 0.5, "n": 3}


@pytest.mark.parametrize("title", sampling.TABLE)
def test_plain_numpy_draws_only_what_the_cuts_keep(title):
    params, n = sampling.TABLE[title], 100
    logits = np.linspace(0, 30, n).astype(np.float32)
    run = sampling_peers.numpy_sampler(logits, params, np.random.default_rng(1))
    drawn = {run() for _ in range(300)}
    probs = sampling_peers.numpy_softmax(logits, params["temperature"] or 1.0)
    order = np.argsort(-probs)
    if params["temperature"] == 0:
        assert drawn == {n - 1}
    elif "top_p" in params:
        n_kept = 1 + int(np.searchsorted(np.cumsum(probs[order]), params["top_p"]))
        assert drawn == set(order[:n_kept].tolist())
    elif "min_p" in params:
        assert drawn <= set(np.flatnonzero(probs >= params["min_p"] * probs.max()).tolist())
        assert len(drawn) > 1
    else:
        assert len(drawn) > 3


# ---- cold start ----------------------------------------------------------------------------


def test_the_cold_start_is_that_of_whole_processes(monkeypatch, tmp_path, capsys):
    commands = {"idle": ["-c", "import time; time.sleep(0.1)"], "nothing": ["-c", "pass"]}
    monkeypatch.setattr(cold_start, "COMMANDS", commands)
    out = tmp_path / "out.json"
    cold_start.main("", ["--runs", "2", "--model", "m", "--json", str(out)])
    result = json.loads(out.read_text())
    assert (result["model"], result["runs"]) == ("m", 2)
    idle = result["rows"]["idle"]
    assert idle["wall"]["min_s"] >= 0.1
    assert list(result["rows"]) == list(commands)
    assert "idle" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cold_start.main("", ["--runs", "1"])
    assert "--runs must be at least 2, got 1" in capsys.readouterr().err


def test_a_measured_process_writes_byte_code(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    cold_start.process_seconds(["-c", "import sys; sys.exit(sys.dont_write_bytecode)"])


def test_generate_is_given_the_model(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cold_start, "process_seconds", lambda words: seen.append(words) or (1.0, 0.5)
    )
    rows = cold_start.measure("some-model", 2)["rows"]
    assert sum("some-model" in words for words in seen) == 3  # the first round does not count
    assert rows["generate -n 1"]["wall"]["median_s"] == 1.0
    assert rows["generate -n 1"]["cpu"]["median_s"] == 0.5


# ---- what Python costs ---------------------------------------------------------------------


class PlayedLLM:
    """A step of n sequences takes 3 ms of a clock, of which 2 ms are native."""

    def __init__(self, clock):
        self.clock, self.model = clock, SimpleNamespace(native_seconds=0.0)
        self.name, self.n_threads, self.kernels = "played", 2, {"a": "b"}
        self.seen, self.n_streams = [], 0

    def stream(self, prompt, params):
        self.seen.append(params)
        self.n_streams += 1
        first = self.n_streams == 1  # the first stream's turn runs the step for all
        for _ in range(params.max_tokens):
            if first:
                self.clock[0] += 0.003
                self.model.native_seconds += 0.002
            yield None
        self.n_streams = 0


@pytest.fixture
def llm(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(overhead_steps.time, "perf_counter", lambda: clock[0])
    return PlayedLLM(clock)


@pytest.mark.parametrize("batch", [1, 2])
def test_python_is_what_is_not_native(llm, batch):
    found = overhead.steps_us(llm, SimpleNamespace(max_tokens=5), batch)
    assert len(found) == 4  # the first step reads the prompt
    for python_us, wall_us in found:
        assert python_us == pytest.approx(1000 / batch)
        assert wall_us == pytest.approx(3000 / batch)


def test_every_case_and_batch_is_a_row(llm):
    rows = list(overhead.measure(llm, [1, 2], n_gen=4, repeat=3))
    assert [(row["n_batch"], row["test"]) for row in rows] == [
        (batch, f"overhead {name}") for batch in (1, 2) for name in overhead.CASES
    ]
    assert rows[0]["python_us_per_token"] == pytest.approx(1000)
    assert rows[-1]["quartiles_us"] == pytest.approx([500, 500])
    assert rows[0]["wall_us_per_token"] == pytest.approx(3000)
    assert rows[0]["model"] == "played" and rows[0]["n_gen"] == 4
    # A run to warm up and three that count, of each case.
    assert len(llm.seen) == 4 * len(overhead.CASES) * (1 + 2)
    assert {params.max_tokens for params in llm.seen} == {4}


def test_overhead_of_a_real_model(tmp_path, capsys):
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, tiny.random_weights(tiny.BASE))
    out = tmp_path / "out.json"
    words = ["--model", str(path), "-n", "4", "-b", "2", "--repeat", "1", "-t", "1"]
    overhead.main("", [*words, "--json", str(out)])
    result = json.loads(out.read_text())
    assert [row["n_batch"] for row in result["rows"]] == [2] * len(overhead.CASES)
    for row in result["rows"]:
        assert 0 < row["python_us_per_token"] < row["wall_us_per_token"]
        assert row["threads"] == 1 and row["kernels"]
    assert result["made_with"]["commit"] and "logprobs" in capsys.readouterr().out


class PlayedWorker:
    def __init__(self, step_us):
        self.step_us, self.orders = step_us, []

    def ask(self, **order):
        self.orders.append(order)
        return [self.step_us] * order.get("steps", 0)


def test_two_checkouts_in_turn():
    before, after = PlayedWorker(50.0), PlayedWorker(40.0)
    rows = list(overhead_pair.measure(before, after, overhead.CASES, [1, 8], n_turns=20))
    assert [(row["n_batch"], row["test"]) for row in rows] == [
        (batch, f"overhead {name}") for batch in (1, 8) for name in overhead.CASES
    ]
    assert {row["ratio"] for row in rows} == {0.8} and rows[0]["n"] == 20
    assert rows[0]["before"]["median_us"] == 50 and rows[0]["after"]["quartiles_us"] == [40, 40]
    assert before.orders == after.orders
    # Streams that are long enough for one turn to warm up and 20 that count, and for the tokens
    # that the first of them gets while the others begin.
    for i in range(0, len(before.orders), 22):
        begun, *turns = before.orders[i : i + 22]
        n_steps = sum(order["steps"] for order in turns)
        assert begun["open"]["max_tokens"] >= n_steps + begun["n_batch"]


def test_a_checkout_runs_in_a_process_of_its_own(tmp_path):
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, tiny.random_weights(tiny.BASE))
    worker = overhead_pair.Worker(overhead_pair.HERE, str(path), 1)
    params = {"max_tokens": 4, "ignore_eos": True, "temperature": 0}
    assert worker.ask(open=params, n_batch=2) == []
    assert len(found := worker.ask(steps=2)) == 2 and min(found) > 0
    worker._process.kill()
    with pytest.raises(overhead_pair.WorkerError, match=r"ended with the exit code -9"):
        worker.ask(steps=2)
    worker.close()


def test_what_is_no_checkout_is_not_measured(tmp_path):
    """Python passes over folders that do not exist, and imports what is installed."""
    with pytest.raises(SystemExit, match=rf"--against: {tmp_path} is no checkout of Pyroclast: "):
        overhead.main("", ["--model", "none", "--against", str(tmp_path)])


def test_a_checkout_that_was_not_built_is_not_measured(monkeypatch):
    def worker(folder, model, n_threads):
        built = folder == overhead_pair.HERE
        return SimpleNamespace(has_executor=built, close=lambda: closed.append(folder))

    closed, other = [], Path("other")
    monkeypatch.setattr(overhead_pair, "Worker", worker)
    with pytest.raises(overhead_pair.WorkerError, match=r"^other lacks the native executor"):
        list(overhead_pair.compare(other, "m", 1, overhead.CASES, [1], 3))
    assert closed == [overhead_pair.HERE, other]


def test_a_process_without_a_model_says_how_it_ended(capfd):
    with pytest.raises(overhead_pair.WorkerError, match="ended with the exit code 1; what it said"):
        overhead_pair.Worker(overhead_pair.HERE, "no such model", 1)
    assert "no such model" in capfd.readouterr().err
