"""bench/engine.py --suite, bench/neighbour.py, bench/load.py and bench/fidelity.py."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import stepping
import tiny
from pyroclast.lab.peers import fidelity, load, neighbour, table
from pyroclast.lab.peers import suite as suite_module
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.speed.throughput import Workload

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parents[1] / "fake_peer.py"
CONFIG = tiny.BASE
WEIGHTS = tiny.random_weights(CONFIG)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_gguf(tmp_path_factory.mktemp("suite") / "tiny.gguf", CONFIG, WEIGHTS, "Q8_0")


def bench_script(name, *argv):
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    return subprocess.run(
        [sys.executable, ROOT / "bench" / name, *map(str, argv)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# ---- the suite -----------------------------------------------------------------------------

PART = """
import json, sys, time
from pathlib import Path
log = Path(__file__).with_name("log")
log.write_text((log.read_text() if log.exists() else "") + " ".join(sys.argv[1:]) + "\\n")
{body}
print("| a table |")
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({{"rows": [1]}}))
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The module, with parts that are modules of two lines: good, bad and slow."""
    bodies = {"good": "", "bad": 'sys.exit("it broke")', "slow": "time.sleep(600)"}
    (tmp_path / "parts").mkdir()
    for name, body in bodies.items():
        (tmp_path / "parts" / f"{name}.py").write_text(PART.format(body=body))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(suite_module, "PACKAGE", "parts")
    monkeypatch.setattr(suite_module, "environment", lambda: {"commit": "abc", "cpu": "a CPU"})
    return suite_module


@pytest.fixture
def do(suite, tmp_path, monkeypatch):
    """do(parts, **arguments) -> (exit code, the JSON written, calls of the modules)."""

    def run(*parts, minutes=10.0, fresh=False, only="", peers=None):
        monkeypatch.setitem(suite.SUITES, "test", parts)
        args = argparse.Namespace(suite="test", minutes=minutes, fresh=fresh, only=only)
        args.peers, args.json = peers, tmp_path / "out" / "all.json"
        args.markdown = tmp_path / "out" / "all.md"
        options = CompareOptions(
            "m", peers={"llama.cpp": "PYTHON"}, cache=tmp_path / "cache", threads=3
        )
        log = tmp_path / "parts" / "log"
        log.unlink(missing_ok=True)
        code = suite.run(options, suite.SuiteOptions.of(args))
        calls = log.read_text().splitlines() if log.exists() else []
        return code, json.loads(args.json.read_text()), calls

    return run


def test_parts_run_in_order_with_the_arguments_of_all(suite, do, tmp_path, capsys):
    one, two = suite.Part("one", "good", "-p 1", 1), suite.Part("two x", "good", "-p 2", 1)
    code, whole, calls = do(one, two)
    assert code == 0
    assert [call.split(" --json")[0] for call in calls] == [
        f"-p {i} --peer llama.cpp=PYTHON --cache {tmp_path / 'cache'} --threads 3" for i in (1, 2)
    ]
    assert list(whole["parts"]) == ["one", "two x"]
    assert whole["parts"]["one"]["result"] == {"rows": [1]}
    assert whole["made_with"]["suite"] == "test"
    assert (whole["made_with"]["commit"], whole["made_with"]["cpu"]) == ("abc", "a CPU")
    table = (tmp_path / "out" / "all.md").read_text()
    assert "## two x\n\n| a table |" in table
    assert capsys.readouterr().out == table
    assert "markdown" not in whole["parts"]["one"]  # the file holds rows
    assert "--peers DIR " in do(one, peers="DIR")[2][0]


def test_what_is_done_is_not_done_again_unless_it_changed(suite, do, monkeypatch):
    part = suite.Part("one", "good", "-p 1", 1)
    assert len(do(part)[2]) == 1
    code, whole, calls = do(part)
    assert (code, calls) == (0, [])
    assert whole["parts"]["one"]["result"] == {"rows": [1]}
    assert len(do(part, fresh=True)[2]) == 1
    assert len(do(suite.Part("one", "good", "-p 2", 1))[2]) == 1
    assert do(part)[2] == []
    monkeypatch.setattr(suite, "environment", lambda: {"commit": "another", "cpu": "x"})
    assert len(do(part)[2]) == 1
    monkeypatch.setattr(suite, "environment", lambda: {"commit": "a-dirty", "cpu": "x"})
    assert len(do(part)[2]) == len(do(part)[2]) == 1


def test_a_part_that_fails_is_told_and_done_again(suite, do):
    bad, good = suite.Part("bad", "bad", "", 1), suite.Part("good", "good", "", 1)
    code, whole, calls = do(bad, good)
    assert code == 1
    assert whole["parts"]["bad"]["failed"].startswith("exit code 1")
    assert whole["parts"]["good"]["result"]
    assert len(calls) == 2
    assert len(do(bad, good)[2]) == 1


def test_time_is_kept(suite, do, tmp_path):
    long = suite.Part("long", "good", "", 11)
    slow = suite.Part("slow", "slow", "", 0.001)
    code, whole, calls = do(long, suite.Part("good", "good", "", 1))
    assert code == 0  # what was left out did not fail
    assert whole["parts"]["long"]["left_out"] == "11 minutes expected, 10.0 left"
    assert len(calls) == 1
    start = time.monotonic()
    _, whole, _ = do(slow, minutes=0.049)
    assert time.monotonic() - start < 120  # the part would take ten minutes
    assert whole["parts"]["slow"]["left_out"] == "not done after 0.0 minutes"
    assert "left out: not done" in (tmp_path / "out" / "all.md").read_text()


def test_a_peer_that_loads_for_each_run_takes_time_of_its_own(suite, tmp_path):
    """A part is left out if there is none for that."""
    llama, both = {"llama.cpp": "PYTHON"}, {"llama.cpp": "PYTHON", "ik_llama.cpp": "PROGRAM"}
    one, load = suite.CPU[0], suite.CPU[-1]
    assert one.minutes_with(both) == 2 * one.minutes_with(llama) == 2 * one.minutes
    assert load.minutes_with(both) == load.minutes
    options = CompareOptions("m", peers=both, cache=tmp_path)
    job = suite._Job(options, suite.SuiteOptions("cpu"), one)
    assert job.run(time.monotonic() + 60 * (one.minutes + 1)) == {
        "left_out": "8 minutes expected, 5.0 left"
    }


def test_parts_can_be_asked_for_by_name(suite, do):
    parts = [suite.Part(name, "good", name, 1) for name in ("one", "two", "three", "one more")]
    _, whole, calls = do(*parts, only="three,one")
    assert list(whole["parts"]) == ["one", "three"]
    assert len(calls) == 2
    assert list(do(*parts, only="one more")[1]["parts"]) == ["one more"]


def test_a_part_that_is_not_there_lists_those_that_are(suite, do, capsys):
    with pytest.raises(FileNotFoundError):  # nothing was done, so nothing written
        do(suite.Part("one", "good", "one", 1), only="on")
    assert "no part 'on'; there are one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cpu", "iq", "dry"])
def test_every_part_is_a_command_that_its_module_takes(name, capsys):
    """Each module's own parser reads the arguments; a flag that it lacks ends it before it runs."""
    parts = suite_module.SUITES[name]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        main = importlib.import_module(f"{suite_module.PACKAGE}.{part.module}").main
        with pytest.raises(SystemExit) as ended:
            main("", [*part.arguments.split(), "--no-such-flag"])
        assert ended.value.code == 2
        assert "unrecognized arguments: --no-such-flag\n" in capsys.readouterr().err, part


def test_the_dry_suite_is_the_same_in_small():
    suite = suite_module
    whole = (*suite.SUITES["cpu"], *suite.SUITES["iq"])
    for part, dry in zip(whole, suite.SUITES["dry"], strict=True):
        assert (part.name, part.module) == (dry.name, dry.module)
    dry = suite.small(suite.Part("x", "comparison", "-p 512 -n 128 -d 4096 -b 1,8 -r 3", 9))
    assert dry.arguments == "-p 32 -n 4 -d 64 -b 1,8 -r 1"
    assert suite.small(suite.Part("x", "comparison", "-p 0 -n 9", 9)).arguments == "-p 0 -n 4"


# ---- a busy neighbour ----------------------------------------------------------------------


def test_the_loop_is_busy_on_its_core_and_ends():
    core = max(os.sched_getaffinity(0))
    seen = []
    popen = subprocess.Popen

    def noted(*args, **options):
        seen.append(popen(*args, **options))
        return seen[-1]

    neighbour.subprocess.Popen = noted
    try:
        with neighbour.busy_loop(core):
            [process] = seen
            assert os.sched_getaffinity(process.pid) == {core}
            deadline, n_ticks = time.monotonic() + 60, 0
            while n_ticks < 20:  # user time, of which its start takes less
                assert time.monotonic() < deadline
                time.sleep(0.05)
                n_ticks = int(Path(f"/proc/{process.pid}/stat").read_text().split()[13])
    finally:
        neighbour.subprocess.Popen = popen
    assert process.poll() is not None


def test_the_share_is_of_neighbouring_runs():
    row = neighbour.row_of(Workload(0, 4), [1.0, 2.0, 1.0], [2.0, 8.0, 2.0])
    assert (row["share"], row["share_low"]) == (0.5, 0.375)
    assert row["alone"]["median_ts"] == 4.0
    assert row["disturbed"]["samples_ts"] == [2.0, 0.5, 2.0]


def test_neighbour(model, tmp_path):
    out = tmp_path / "out.json"
    peer = f"pyroclast={sys.executable}"
    args = ("--model", model, "-n", 2, "-r", 2, "-t", 1, "--peer", peer, "--json", out)
    done = bench_script("neighbour.py", *args, "--peer", "llama.cpp=/no/such/python")
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [row["engine"] for row in result["rows"]] == ["Pyroclast", "pyroclast"]
    for row in result["rows"]:
        for speeds in (row["alone"], row["disturbed"]):
            assert speeds["n_samples"] == 2 and "samples_ts" not in speeds
        assert row["share"] > 0
    assert "Absent: llama.cpp on tiny.gguf: /no/such/python" in done.stdout


# ---- loading -------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    """fake(bytes that it holds): a peer of that kind."""

    def add(n_bytes):
        settings = {"x": ({"seconds": [1.0], "hold_bytes": n_bytes}, {})}
        monkeypatch.setitem(table.PEERS, f"fake{n_bytes}", table.Peer(str(FAKE), settings))
        return f"fake{n_bytes}"

    return add


def test_peak_memory_is_what_a_process_held(model, fake, tmp_path):
    names = [fake(0), fake(200_000_000)]
    peers = dict.fromkeys(names, sys.executable)
    options = CompareOptions(str(model), peers=peers, threads=1, repetitions=2, cache=tmp_path)
    shown = []
    # With the first token 100, which takes four blocks of 32.
    result = load.run(options, None, 99, shown.append)
    rows = {row["engine"]: row for row in result["rows"]}
    ours = ["Pyroclast", "Pyroclast (packed file)"]
    assert list(rows) == [*ours, *(f"{name} (x)" for name in names)]
    more = rows[f"{names[1]} (x)"]["peak_bytes"] - rows[f"{names[0]} (x)"]["peak_bytes"]
    assert 190e6 < more < 230e6
    assert result["file_bytes"] == model.stat().st_size
    held = result["file_bytes"] + result["kv_bytes"]
    assert result["kv_bytes"] == 128 * CONFIG.n_layers * CONFIG.n_kv_heads * CONFIG.head_dim * 2 * 2
    row = rows["Pyroclast"]
    assert row["peak_share"] == pytest.approx(row["peak_bytes"] / held)
    low, high = row["load_s_quartiles"]
    assert 0 < low <= row["load_s"] <= high
    assert row["n_samples"] == 2
    assert shown == [1, 2]


def test_load(model, tmp_path):
    out = tmp_path / "out.json"
    peer = ("--peer", "llama.cpp=/no/such/python", "--cache", tmp_path)
    done = bench_script("load.py", "--model", model, "-d", 9, "-r", 1, *peer, "--json", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    engines = [row["engine"] for row in result["rows"]]
    assert engines == ["Pyroclast", "Pyroclast (packed file)"]
    assert "/no/such/python" in result["absent"]["llama.cpp (repack)"]
    assert "| Pyroclast | " in done.stdout
    done = bench_script("load.py", "--model", "dummy:smollm2-135m", "-r", 1)
    assert done.returncode == 1
    assert "a file must be loaded, not dummy:smollm2-135m" in done.stderr


# ---- fidelity ------------------------------------------------------------------------------


def test_divergence_is_that_of_the_distributions():
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    # What is added to all logits of a row changes nothing.
    kl, same = fidelity.divergence(reference, other + np.float32(7))
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(kl, [expected, 0], atol=1e-6)
    assert same.tolist() == [False, True]
    many = np.repeat(reference, 100, axis=0)  # more than are held at a time
    kl, _ = fidelity.divergence(many, np.repeat(other, 100, axis=0))
    np.testing.assert_allclose(kl, np.repeat([expected, 0], 100), atol=1e-6)
    found = fidelity.summary([(np.array([0.0, 0.2]), np.array([True, True]))] * 2)
    assert found["mean_kl"] == pytest.approx(0.1)
    assert found["standard_error"] == pytest.approx(0.05)
    assert (found["same_top"], found["n_tokens"]) == (1.0, 4)
    # Far apart from token to token, and still always the same between the two.
    ours, its = np.array([1.0, 9.0, 4.0]), np.array([0.5, 8.5, 3.5])
    found = fidelity.against([(ours, ours)], [(its, its)])
    assert found == {"ours_minus_its_kl": 0.5, "difference_error": 0.0}


def test_the_logits_are_those_of_every_token(model):
    text = [5, 17, 300, 2, 9] * 8
    ours = fidelity.Ours(str(model), 64, threads=1)
    found = ours.every_logit(text).copy()
    again = ours.every_logit(text[:7]).copy()  # the cache of a longer text does not shine through
    ours.model.close()
    np.testing.assert_array_equal(found, stepping.logits_of(stepping.load(model), text))
    np.testing.assert_array_equal(again, found[:7])


def test_quantized_arithmetic_diverges_a_little(model):
    texts = [list(range(i, i + 32)) for i in (0, 100)]
    divergences = []
    for kv_dtype in ("f32", "q8_0"):
        options = CompareOptions(str(model), threads=1, kv_dtype=kv_dtype)
        found = fidelity.compare(options, str(model), texts)
        assert list(found) == ["Pyroclast"]
        assert found["Pyroclast"]["kv_dtype"] == kv_dtype
        assert 0 < found["Pyroclast"]["mean_kl"] < 0.01
        assert found["Pyroclast"]["n_tokens"] == 64
        divergences.append(found["Pyroclast"]["mean_kl"])
    assert divergences[0] != divergences[1]


def test_texts_are_different_and_the_same_every_time():
    from demo import demo_path

    tokens, key = fidelity.texts(str(demo_path()), 3, 20)
    assert [len(each) for each in tokens] == [20, 20, 20]
    assert len({tuple(each) for each in tokens}) == 3
    assert fidelity.texts(str(demo_path()), 3, 20) == (tokens, key)
    assert fidelity.texts(str(demo_path()), 3, 8)[0] == [each[:8] for each in tokens]
