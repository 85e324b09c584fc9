"""`pyroclast bench`: that it times what it says, and prints it."""

import io
import json

import numpy as np
import pytest

import stepping
import tiny
import tiny_families
from pyroclast import NumericalError, RequestError
from pyroclast.cli import main as cli
from pyroclast.cli.bench import RowPrinter
from pyroclast.lab.speed.throughput import Runner, Workload, make_workloads, plan_steps

CONFIG = tiny.BASE
WEIGHTS = tiny.random_weights(CONFIG)


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
        (["-p", "0", "-n", "0"], 2, "nothing to measure"),
        (["-b", "0"], 2, "n_batch must be a whole number >= 1, got 0"),
        (["-r", "0"], 2, "repetitions must be at least 1, got 0"),
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


def test_the_columns_hold_the_peak_of_a_large_machine(capsys):
    """Matrix registers of 16 cores do tens of thousands of Gop/s."""
    printer = RowPrinter("m", ["pp512"])
    row = {"model": "m", "weight_bytes": 1 << 28, "n_threads": 16, "test": "pp512"}
    row |= {"avg_ts": 12345.678, "stddev_ts": 123.456}
    for share, value, unit in ((0.5, 20, "GB/s"), (1.0, 35000, "Gop/s")):
        printer.add({**row, "roofline_share": share, "ceiling": {"value": value, "unit": unit}})
    assert len({len(line) for line in capsys.readouterr().out.splitlines()}) == 1
