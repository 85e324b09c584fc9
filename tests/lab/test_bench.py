"""`pyroclast bench` and bench/engine.py: that they time what they say, and get the rows right."""

import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import stepping
import tiny
import tiny_experts
import tiny_families
from pyroclast import NumericalError, RequestError
from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.cli import main as cli
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import config_of
from pyroclast.families.rope import inv_freq
from pyroclast.lab.peers import files, report
from pyroclast.lab.speed import throughput as bench
from pyroclast.lab.speed import throughput_rows as bench_rows
from pyroclast.lab.speed.throughput import Runner, Workload, make_workloads, plan_steps
from pyroclast.lab.speed.throughput_rows import MachineLimit

ROOT = Path(__file__).parents[2]
# d_model and d_ff are multiples of 32: every format fits.
CONFIG = tiny.BASE
WEIGHTS = tiny.random_weights(CONFIG)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_gguf(tmp_path_factory.mktemp("bench") / "tiny.gguf", CONFIG, WEIGHTS)


# ---- workloads -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "name", "n_end", "n_timed"),
    [
        (Workload(512, 0), "pp512", 512, 512),
        (Workload(0, 128), "tg128", 128, 128),
        (Workload(512, 0, 4096), "pp512 @ d4096", 4608, 512),
        (Workload(0, 64, 0, 16), "tg64 b16", 64, 1024),
        (Workload(0, 64, 100, 4), "tg64 b4 @ d100", 164, 256),
    ],
    ids=str,
)
def test_names_and_counts(workload, name, n_end, n_timed):
    assert (workload.name, workload.n_end, workload.n_timed) == (name, n_end, n_timed)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 0), "one of n_prompt and n_gen is 0"),
        ((1, 1), "one of n_prompt and n_gen is 0"),
        ((-1, 0), "n_prompt must be a whole number >= 0, got -1"),
        ((1, 0, 0, 0), "n_batch must be a whole number >= 1, got 0"),
        ((0, 1, 1.5), "n_depth must be a whole number >= 0, got 1.5"),
    ],
    ids=str,
)
def test_a_workload_that_times_nothing_is_refused(numbers, message):
    with pytest.raises(RequestError, match=message):
        Workload(*numbers)


def test_every_combination_in_order():
    names = [w.name for w in make_workloads([8, 16, 0], [4], [0, 32], [1, 2])]
    at_0 = ["pp8", "pp16", "tg4", "pp8 b2", "pp16 b2", "tg4 b2"]
    assert names == at_0 + [f"{name} @ d32" for name in at_0]
    with pytest.raises(RequestError, match="nothing to measure"):
        make_workloads([0], [0], [0], [1])


@pytest.mark.parametrize("n_seqs", [1, 3])
@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 16), (3, 20), (5, 5), (0, 50)])
def test_steps_cover_every_position_once_and_are_full(n_seqs, begin, end):
    steps = list(plan_steps(n_seqs, begin, end, 16))
    sizes = [sum(stop - first for _, first, stop in step) for step in steps]
    assert all(size == 16 for size in sizes[:-1])
    assert all(0 < size <= 16 for size in sizes)
    covered = [(seq, p) for step in steps for seq, first, stop in step for p in range(first, stop)]
    assert covered == [(seq, p) for seq in range(n_seqs) for p in range(begin, end)]
    for step in steps:  # a sequence's tokens are adjacent in a step
        assert len({seq for seq, *_ in step}) == len(step)


# ---- running -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workload",
    [
        Workload(20, 0),
        Workload(0, 5),
        Workload(20, 0, 40),
        Workload(0, 5, 40),
        Workload(250, 0, 0, 3),  # two steps, the second sequence in both
        Workload(3, 0, 200, 3),
        Workload(0, 7, 40, 3),
    ],
    ids=lambda workload: workload.name,
)
def test_the_tokens_timed_are_those_of_the_workload(model, workload):
    last_logits_are_right(model, workload)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_recurrent_layers_see_the_tokens_of_the_workload(tmp_path):
    tiny_families.write_folder(tmp_path, "lfm2")
    for workload in (Workload(0, 7, 40, 3), Workload(0, 5), Workload(20, 0, 40)):
        last_logits_are_right(tmp_path, workload)


def last_logits_are_right(model, workload):
    """The last logits are those of every sequence's whole text, computed by hand."""
    others = [Workload(9, 0, 0, 2), Workload(0, 3, 11, 1)]
    with Runner(model, [*others, workload], threads=1) as runner:
        for each in (others[0], workload, others[1], workload):
            assert runner.run(each) > 0
        found = runner.model.logits[: runner.model.batch.n_logits].copy()
        texts = [
            runner._token_ids(seq, 0, workload.n_end).tolist() for seq in range(workload.n_batch)
        ]
    by_hand = stepping.load(model, threads=1)
    if workload.n_timed > 512:
        found, texts = found[-1:], texts[-1:]  # the last step holds the end of the last one only
    expected = [stepping.logits_of(by_hand, text)[-1] for text in texts]
    np.testing.assert_array_equal(found, expected)
    assert len({tuple(text[:20]) for text in texts}) == len(texts)
    assert all(len(set(text[:100])) == len(text[:100]) for text in texts)


def steps_of(runner, workload):
    """Tokens of each step of a run."""
    sizes, forward = [], runner.model.forward

    def counted():
        sizes.append(runner.model.batch.n_tokens)
        forward()

    runner.model.forward = counted
    runner.run(workload)
    runner.model.forward = forward
    return sizes


def test_a_depth_is_filled_once(model):
    deep, shallow = Workload(0, 3, 40, 2), Workload(30, 0, 10, 2)
    with Runner(model, [deep, shallow], threads=1) as runner:
        assert steps_of(runner, shallow) == [20, 60]
        assert steps_of(runner, deep) == [2, 2, 2]  # what was read before is still there
        assert steps_of(runner, shallow) == [60]
    with Runner(model, [deep], threads=1) as runner:
        assert steps_of(runner, deep) == [80, 2, 2, 2]
        assert steps_of(runner, deep) == [2, 2, 2]


def test_what_is_not_a_number_is_not_timed(tmp_path):
    weights = {**WEIGHTS, "layers.1.wo": np.full_like(WEIGHTS["layers.1.wo"], np.nan)}
    path = tiny.write_gguf(tmp_path / "nan.gguf", CONFIG, weights)
    workload = Workload(8, 0)
    with (
        Runner(path, [workload], threads=1) as runner,
        pytest.raises(NumericalError, match="NaN or infinity in the logits of pp8"),
    ):
        runner.run(workload)


def test_a_workload_longer_than_the_context_is_refused(model):
    with pytest.raises(RequestError, match=r"tg8 @ d250 needs 258 positions.* holds 256"):
        Runner(model, [Workload(0, 8, 250)])


# ---- ceilings and shares -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quant", "arithmetic"), [("Q8_0", "vnni"), ("Q4_0", "vnni"), ("F16", "fma"), ("F32", "fma")]
)
def test_the_arithmetic_is_that_of_the_weights(tmp_path, quant, arithmetic):
    path = tiny.write_gguf(tmp_path / "model.gguf", CONFIG, WEIGHTS, quant)
    with open_checkpoint(path) as checkpoint:
        format = bench.main_format(checkpoint)
    assert format == quant.lower()
    assert bench_rows.arithmetic_of(format) == arithmetic
    with Runner(path, [Workload(1, 0)], threads=1, compute="float32") as runner:
        assert runner.format == "f32"


@pytest.mark.parametrize("has_it", [True, False])
def test_bf16_counts_as_such_where_the_cpu_has_it(monkeypatch, has_it):
    monkeypatch.setattr(bench_rows.machine, "kernels", lambda: {"bf16": 1} if has_it else {})
    assert bench_rows.arithmetic_of("bf16") == ("bf16" if has_it else "fma")


def runner_of(config: Hyperparameters, **model):
    about = {"weight_bytes": 1_000_000, "kv_dtype": "f16", "n_threads": 2, "kernels": {"a": "b"}}
    about |= {"compute": "auto", "config": config_of(config), "table": "tuned-1", **model}
    return SimpleNamespace(name="m", model=SimpleNamespace(**about))


def test_work_of_decoding_is_weights_and_cache():
    kv = 2 * 2 * 2 * 16 * 2  # bytes of a position: keys and values, layers, heads, dims, f16
    work = bench_rows.giga_work(runner_of(CONFIG), Workload(0, 3, 10, 4)) * 1e9
    assert work == pytest.approx(3 * 1_000_000 + 4 * (11 + 12 + 13) * kv)
    work = bench_rows.giga_work(runner_of(CONFIG, kv_dtype="f32"), Workload(0, 1)) * 1e9
    assert work == pytest.approx(1_000_000 + 2 * kv)
    windowed = replace(CONFIG, sliding_window=12)
    work = bench_rows.giga_work(runner_of(windowed), Workload(0, 3, 10)) * 1e9
    assert work == pytest.approx(3 * 1_000_000 + (11 + 12 + 12) * kv)


def test_work_of_a_prompt_is_its_products():
    layer = 96 * (96 + 32 + 32) + 96 * 96 + 3 * 96 * 160
    work = bench_rows.giga_work(runner_of(CONFIG), Workload(7, 0, 10, 4)) * 1e9
    # The head gives logits for the last token of each prompt.
    assert work == pytest.approx(2 * (2 * layer * 7 * 4 + 320 * 96 * 4))


def test_work_of_experts_is_that_of_the_active_ones():
    layer = 64 * (128 + 64 + 64) + 64 * 128 + 12 * 64 + 3 * 3 * 64 * 32
    work = bench_rows.giga_work(runner_of(tiny_experts.CONFIG), Workload(7, 0, 10)) * 1e9
    assert work == pytest.approx(2 * (3 * layer * 7 + 320 * 64))


def test_a_row_is_computed_right():
    seconds = [1.0, 0.5, 0.25]
    seen = [MachineLimit("read", value, "GB/s", "x") for value in (2.0, 4.0, 3.0, 1.0)]
    runner, workload = runner_of(CONFIG), Workload(0, 8, 0, 2)
    row = bench_rows.summarize(runner, workload, seconds, seen)
    assert (row["test"], row["n_prompt"], row["n_gen"], row["n_depth"]) == ("tg8 b2", 0, 8, 0)
    assert (row["n_batch"], row["n_threads"], row["model"]) == (2, 2, "m")
    assert (row["kernels"], row["table"]) == ({"a": "b"}, "tuned-1")
    assert row["samples_ts"] == [16, 32, 64]
    assert (row["low_ts"], row["high_ts"], row["n_samples"]) == (24, 48, 3)
    assert row["avg_ts"] == pytest.approx(112 / 3)
    assert row["median_ts"] == 32
    assert row["stddev_ts"] == pytest.approx(statistics.stdev([16, 32, 64]))
    assert row["avg_ns"] == pytest.approx(1.75e9 / 3)
    assert row["ceiling"] == {"kind": "read", "value": 4.0, "unit": "GB/s", "how": "x"}
    # 1 s beside 2 and 4 GB/s, 0.5 s beside 4 and 3, 0.25 s beside 3 and 1: the second is median.
    share = bench_rows.giga_work(runner, workload) / 0.5 / 4.0
    assert row["roofline_share"] == pytest.approx(share)
    row = bench_rows.summarize(runner, workload, [1.0], [None, None])
    assert (row["stddev_ts"], row["roofline_share"], row["ceiling"]) == (0, None, None)
    assert row["low_ts"] == row["median_ts"] == row["high_ts"] == 16


@pytest.mark.native
def test_rows_have_limits_measured_around_them(model, monkeypatch):
    workloads, n_done, seen = [Workload(8, 0), Workload(0, 4)], [], []
    measure = bench_rows.MachineLimits.measure

    def recorded(self, workload):
        seen.append(workload)
        return measure(self, workload)

    monkeypatch.setattr(bench_rows.MachineLimits, "measure", recorded)
    with Runner(model, workloads, threads=2) as runner:
        rows = list(bench_rows.measure(runner, workloads, 2, n_done.append))
    assert [row["test"] for row in rows] == ["pp8", "tg4"]
    assert [row["ceiling"]["kind"] for row in rows] == ["fma", "read"]
    assert all(row["ceiling"]["value"] > 0 and row["roofline_share"] > 0 for row in rows)
    assert all(len(row["samples_ts"]) == 2 for row in rows)
    assert n_done == [1, 2, 3, 4, 5, 6]
    assert seen == [workloads[0]] * 3 + [workloads[1]] * 3  # one before, one after each


def test_the_version_stands_for_the_commit_where_there_is_no_checkout(monkeypatch):
    monkeypatch.setattr(bench_rows.shutil, "which", lambda _: None)
    bench_rows.commit.cache_clear()
    assert bench_rows.environment()["commit"] == bench_rows.__version__
    bench_rows.commit.cache_clear()


# ---- pyroclast bench -----------------------------------------------------------------------


def run(*argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *map(str, argv)])
    return ended.value.code


def test_json_is_a_row_per_line(model, capsys):
    kernels = "norm=numpy"
    args = ("-m", model, "-p", "8,16", "-n", 4, "-d", 3, "-b", 2, "-r", 2, "-t", 1)
    assert run(*args, "--kernels", kernels, "--kv-dtype", "f32", "--json") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [row["test"] for row in rows] == [f"{name} b2 @ d3" for name in ("pp8", "pp16", "tg4")]
    for row in rows:
        assert row["kernels"]["norm.f32"] == "numpy"
        assert (row["kv_dtype"], row["compute"], row["n_threads"]) == ("f32", "auto", 1)
        assert row["model"] == "tiny"
        assert row["weight_bytes"] > 0
        assert len(row["samples_ts"]) == 2
        assert row["cpu"] and row["commit"] and row["date"] and row["python"] and row["numpy"]
    assert run(*args, "--compute", "float32", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["compute"] == "float32"


def test_a_table_for_people(model, capsys):
    assert run("-m", model, "-p", 8, "-n", "4", "-r", 1, "-t", 1) == 0
    out, err = capsys.readouterr()
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert err == ""
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert ["pp8" in line for line in table] == [False, False, True, False]
    assert ["tg4" in line for line in table] == [False, False, False, True]
    assert "kernels: " in out and "matmul.f32=" in out
    assert "sampling are not part of it" in out


def test_a_progress_bar_on_a_terminal_only(model, monkeypatch, capsys):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr("pyroclast.progress._DELAY_S", 0.0)
    monkeypatch.setattr("sys.stderr", terminal := Terminal(io.BytesIO()))
    assert run("-m", model, "-p", 8, "-n", 0, "-r", 2, "--json") == 0
    terminal.flush()
    assert b"/3" in terminal.buffer.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["-p", "x"], 2, "must be whole numbers, as in 1,4,16; got 'x'"),
        (["-n", "1,,2"], 2, "must be whole numbers"),
        (["-b", "-1"], 2, "-b"),
        (["-p", "0", "-n", "0"], 1, "nothing to measure"),
        (["-b", "0"], 1, "n_batch must be a whole number >= 1, got 0"),
        (["-r", "0"], 1, "repetitions must be at least 1, got 0"),
        (["-p", "257"], 1, "pp257 needs 257 positions"),
        (["--kv-dtype", "q1"], 1, "kv_dtype must be"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line(model, capsys, argv, code, message):
    assert run("-m", model, "-p", 8, "-n", 4, *argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


# ---- bench/engine.py -----------------------------------------------------------------------


def engine(*argv, **environment):
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    return subprocess.run(
        [sys.executable, ROOT / "bench" / "engine.py", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_engines_in_turn(model, tmp_path):
    """Against itself, and against an engine that is not there."""
    args = ("--model", model, "-p", 16, "-n", "4", "-b", "1,2", "-r", 3, "-t", 1)
    peers = ("--peer", f"pyroclast={sys.executable}", "--peer", "llama.cpp=/no/such/python")
    done = engine(*args, *peers, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.json").read_text()
    result = json.loads(text)
    assert [row["test"] for row in result["rows"]] == ["pp16", "tg4", "pp16 b2", "tg4 b2"]
    lines = text.splitlines()
    assert sum(line.startswith('{"label"') for line in lines) == 4 and len(lines) < 10
    for row in result["rows"]:
        assert list(row["peers"]) == ["pyroclast"]
        other = row["peers"]["pyroclast"]["variants"]["default"]
        for speeds in (row, other):  # the file keeps no single runs
            assert speeds["n_samples"] == 3 and "samples_ts" not in speeds
            assert 0 < speeds["low_ts"] <= speeds["median_ts"] <= speeds["high_ts"]
        assert 0 < other["ratio_low"] <= other["ratio"] <= other["ratio_high"]
        assert other["logits_correlation"] == pytest.approx(1)
        assert row["kernels"] and row["commit"]
    made = result["made_with"]
    assert made["peers"]["pyroclast"]["version"].startswith("pyroclast ")
    assert made["absent"] == {
        "llama.cpp on tiny.gguf": "/no/such/python: No such file or directory"
    }
    assert (tmp_path / "out.md").read_text() == done.stdout
    assert "Absent: llama.cpp on tiny.gguf" in done.stdout
    assert "| tiny | tg4 b2 |" in done.stdout.replace(str(model), "tiny")


def test_a_peer_that_breaks_is_absent_with_its_last_words(model, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'it broke' >&2\nexit 3\n")
    python.chmod(0o755)
    args = ("--model", model, "-p", 8, "-n", 0, "-r", 1)
    done = engine(*args, "--peer", f"llama.cpp={python}")
    assert done.returncode == 0, done.stderr
    assert "exit code 3; its last words: it broke" in done.stdout
    done = engine(*args, "--peer", f"llama.cpp={python}", "--format", "q8_0")
    assert done.returncode == 1
    assert "it broke" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--peer", "gpt=python"], "no worker for 'gpt'; there are: llama.cpp, OpenVINO GenAI"),
        (["-r", "0"], "--repetitions must be at least 1, got 0"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["--model", "dummy:none", "--peer", "pyroclast=python"], "unknown shape 'none'"),
        (["--format", "q8_0", "--peer", "pyroclast=python"], "takes --peer llama.cpp=PYTHON"),
    ],
    ids=str,
)
def test_wrong_usage_of_the_script(argv, message):
    done = engine(*argv)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ratios_are_of_neighbouring_runs():
    # The machine slows down by half; we are twice as fast all along.
    assert report.compare([4, 2, 2], [2, 1, 1]) == {"ratio": 2, "ratio_low": 2, "ratio_high": 2}
    found = report.compare([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    assert found == {"ratio": 3, "ratio_low": 2, "ratio_high": 4}
    assert report.compare([3], [2])["ratio_low"] == 1.5
    variants = {"a": {"median_ts": 1, "avg_ts": 9}, "b": {"median_ts": 2, "avg_ts": 2}}
    assert report.best_variant(variants) == "b"


def test_a_random_model_has_the_shape_and_frequencies_of_the_real_one(tmp_path):
    real = SHAPES["llama-3.2-1b"]
    small = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 256, "d_ff": 96}
    for config in (
        replace(real, vocab_size=600, **small),
        replace(SHAPES["qwen2.5-0.5b"], vocab_size=600, **small),
        replace(SHAPES["llama-3.1-8b"], vocab_size=600, **{**small, "d_model": 512}),
    ):
        path = tmp_path / "random.gguf"
        files.write_random_gguf(path, config)
        with open_checkpoint(path) as checkpoint:
            found = checkpoint.hyperparameters
            assert checkpoint.tensors["layers.1.wk"].format == "f16"
            assert np.isfinite(checkpoint.tensors["layers.1.wk"].float32()).all()
            assert checkpoint.tokenizer().encode("th", add_special_tokens=False) == [258]
        expected = inv_freq(config.rope, config.head_dim)
        np.testing.assert_allclose(inv_freq(found.rope, found.head_dim), expected, rtol=1e-6)
        read_from_file = {"rope_scaling": None, "rope_freq_factors": None}
        assert found.norm_eps == pytest.approx(config.norm_eps)
        special = {"bos_token_id": None, "eos_token_ids": (), "norm_eps": config.norm_eps}
        assert replace(found, **read_from_file, **special) == replace(config, **read_from_file)


def test_a_file_is_made_once_and_never_by_half(tmp_path, monkeypatch):
    path, made = tmp_path / "x.gguf", []

    def fail(target):
        target.write_text("half")
        raise RuntimeError

    def make(target):
        made.append(target)
        target.write_text("whole")

    with pytest.raises(RuntimeError):
        files.made_once(path, fail)
    assert list(tmp_path.iterdir()) == []
    files.made_once(path, make)
    files.made_once(path, make)
    assert len(made) == 1
    assert path.read_text() == "whole"


def test_files_are_told_apart_by_source_and_format(tmp_path, monkeypatch, model):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def quantize(source, target, format):
        target.write_text(f"{source} {format}")

    assert files.model_file(str(model), None, quantize, pure=False) == model
    found = {
        files.model_file(str(model), format, quantize, pure=pure)
        for format in ("q8_0", "q4_0")
        for pure in (False, True)
    }
    assert len(found) == 4
    assert {path.parent for path in found} == {tmp_path / "pyroclast" / "bench"}
    assert {path.read_text() for path in found} == {f"{model} q8_0", f"{model} q4_0"}
    os.utime(model, (1, 1))
    assert files.model_file(str(model), "q8_0", quantize, pure=False) not in found


def test_llama_cpp(model, tmp_path):
    """With the package in this Python, or in the one that PYROCLAST_LLAMA_PYTHON names."""
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if python is None and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed: pip install .[peers]")
    args = ("--model", model, "--format", "f16", "-p", 16, "-n", 4, "-d", "0,5", "-b", "1,3")
    out = ("-r", 2, "-t", 1, "--json", tmp_path / "out.json")
    peer = f"llama.cpp={python or sys.executable}"
    done = engine(*args, *out, "--peer", peer, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["made_with"]["absent"] == {}
    assert "AVX" in result["made_with"]["peers"]["llama.cpp"]["system_info"]
    assert len(result["rows"]) == 8
    for row in result["rows"]:
        variants = row["peers"]["llama.cpp"]["variants"]
        assert len(variants) == (2 if row["n_batch"] == 1 else 4)
        assert all(each["median_ts"] > 0 for each in variants.values())
        assert all(each["logits_correlation"] > 0.999 for each in variants.values())
        assert row["model"].endswith(".f16")
