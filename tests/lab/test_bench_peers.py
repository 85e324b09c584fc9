"""Other engines in turn, with a fake one that needs no installation."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.cli import main as cli
from pyroclast.families.rope import RopeScaling
from pyroclast.lab.peers import arena, comparison, folders, store, table
from pyroclast.lab.peers.client import WORKERS
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.workers import tokens
from pyroclast.lab.speed import throughput as bench
from pyroclast.lab.speed.throughput import Workload

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parents[1] / "fake_peer.py"
CONFIG = tiny.BASE
WEIGHTS = tiny.random_weights(CONFIG)
TG = Workload(0, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_gguf(tmp_path_factory.mktemp("peers") / "tiny.gguf", CONFIG, WEIGHTS)


@pytest.fixture
def rows(model, monkeypatch):
    """rows(settings, **fields of Peer) -> (rows against the fake, arena)."""
    monkeypatch.setattr(arena, "SETTLE_S", 0.001)

    def measure(settings, workloads=(TG,), repetitions=3, file="weights", **fields):
        fake = table.Peer(str(FAKE), settings, **fields)
        monkeypatch.setitem(table.PEERS, "fake", fake)
        peer = {"fake": sys.executable}
        options = CompareOptions(str(model), peers=peer, threads=1, repetitions=repetitions)
        found = arena.Arena(options, workloads)
        return list(found.rows(str(model), "tiny", lambda _: file)), found

    return measure


def options(*seconds, **others):
    return {"seconds": list(seconds), **others}


# ---- in turn -------------------------------------------------------------------------------


def test_a_peer_stands_in_the_row_with_its_best_setting(rows):
    settings = {"slow": (options(9.0, 4.0), {}), "fast": (options(9.0, 1.0, 2.0, 2.0), {})}
    [row], arena = rows(settings)
    found = row["peers"]["fake"]
    assert found["best"] == "fast"
    # The first run warms up, and does not count.
    assert found["variants"]["slow"]["samples_ts"] == [0.5, 0.5, 0.5]
    assert found["variants"]["fast"]["samples_ts"] == [2.0, 1.0, 1.0]
    ratios = [a / b for a, b in zip(row["samples_ts"], [2.0, 1.0, 1.0], strict=True)]
    assert found["variants"]["fast"]["ratio"] == pytest.approx(np.median(ratios))
    assert arena.peers["fake"] == {"version": "fake 1", "model": "weights", "n": 1, "threads": 1}
    assert row["ceiling"]["kind"] == "read"
    assert row["kernels"] and row["commit"] and row["cpu"] and row["date"]


@pytest.mark.parametrize("good", [1, 2, 3])
def test_a_peer_that_fails_is_left_out_of_the_workload_whenever_it_does(rows, good):
    settings = {"bad": (options(*[1.0] * good, "error"), {}), "good": (options(1.0), {})}
    [row], arena = rows(settings)
    assert list(row["peers"]["fake"]["variants"]) == ["good"]
    assert arena.absent == {"fake (bad) in tg2": "RuntimeError: cannot do 2 tokens"}
    assert len(row["samples_ts"]) == 3


def test_a_peer_that_does_not_stand_beside_a_format_is_not_loaded(rows):
    [row], arena = rows({"x": ({"no such option": 1}, {})}, file=None)
    assert row["peers"] == {} and arena.absent == {}
    [row], arena = rows({"x": ({"no such option": 1}, {})})
    assert row["peers"] == {}
    assert "unexpected keyword" in arena.absent["fake on tiny.gguf"]


def our_logits(model):
    with bench.Runner(model, [TG], threads=1) as runner:
        runner.run(TG)
        return runner.model.logits[0].copy()


def test_logits_tell_whether_the_weights_are_the_same(rows, model):
    ours = our_logits(model)
    same = (2 * ours + 1).tolist()  # as good: scale and offset do not matter
    [row], arena = rows({"x": (options(1.0, answer=[*same, 0.0, 0.0]), {})})
    assert row["peers"]["fake"]["variants"]["x"]["logits_correlation"] == pytest.approx(1)
    noise = np.random.default_rng(1).standard_normal(len(ours)).astype(np.float32)
    near = (ours + 0.8 * ours.std() * noise).tolist()
    [row], arena = rows({"x": (options(1.0, answer=near), {})})
    found = row["peers"]["fake"]["variants"]["x"]["logits_correlation"]
    assert found == pytest.approx(np.corrcoef(ours, near)[0, 1], abs=1e-5)
    assert arena.least_alike == found < 0.9
    # An engine that rounds the weights again is not expected to agree as closely.
    _, arena = rows({"x": (options(1.0, answer=near), {})}, reads="hf")
    assert arena.least_alike == 1


@pytest.mark.parametrize("wrong", ["other sign", "constant", "not numbers"])
def test_what_is_not_computed_is_not_timed(rows, model, wrong):
    ours = our_logits(model)
    answers = {"other sign": -ours, "constant": 0 * ours + 3, "not numbers": ours * np.nan}
    settings = {"x": (options(1.0, answer=answers[wrong].tolist()), {}), "y": (options(1.0), {})}
    [row], arena = rows(settings)
    assert list(row["peers"]["fake"]["variants"]) == ["y"]
    found = "-1.000" if wrong == "other sign" else "0.000"
    assert arena.absent == {"fake (x) in tg2": f"its logits correlate with ours by {found}"}
    assert arena.least_alike == float(found)


def test_so_does_a_choice_and_nothing_says_nothing(rows, model):
    order = np.argsort(-our_logits(model))
    for rank in (0, 5):
        [row], arena = rows({"x": (options(1.0, answer=int(order[rank])), {})})
        assert row["peers"]["fake"]["variants"]["x"]["choice_rank"] == rank
        assert arena.worst_rank == rank / CONFIG.vocab_size
    [row], arena = rows({"x": (options(1.0), {})})
    assert {"choice_rank", "logits_correlation"}.isdisjoint(row["peers"]["fake"]["variants"]["x"])
    assert (arena.least_alike, arena.worst_rank) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("worst_rank", 0.2, "a token that we find less likely than 20.0%"),
        ("least_alike", 0.5, "correlate with ours by 0.500 only"),
        ("idle_share", 0.3, "idle engines took 30% of a core"),
    ],
)
def test_warnings(field, value, words):
    calm = {"peers": {}, "least_alike": 1.0, "worst_rank": 0.0, "idle_share": 0.0}
    assert comparison.warnings(SimpleNamespace(**calm), 0.0) == []
    [found] = comparison.warnings(SimpleNamespace(**{**calm, field: value}), 0.0)
    assert words in found


# ---- who is there --------------------------------------------------------------------------


def test_peers_are_found_in_their_own_environments_or_in_this_one(tmp_path, monkeypatch):
    here = {"ctranslate2"}
    monkeypatch.setattr(
        table.importlib.util, "find_spec", lambda name: object() if name in here else None
    )
    python = tmp_path / "openvino" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    found, absent = table.find(tmp_path)
    assert found == {"OpenVINO GenAI": str(python), "CTranslate2": sys.executable}
    assert list(absent) == ["llama.cpp", "ik_llama.cpp", "transformers"]
    assert f"{tmp_path}/ik_llama/build/bin/llama-bench is not there: git" in absent["ik_llama.cpp"]
    assert f"{tmp_path}/llama/bin/python is not there" in absent["llama.cpp"]
    assert "pip install llama-cpp-python" in absent["llama.cpp"]
    found, absent = table.find(None)
    assert found == {"CTranslate2": sys.executable}
    assert absent["transformers"].startswith("this Python has no transformers: pip install")
    assert absent["ik_llama.cpp"].startswith("--peers DIR names no folder of engines: git clone")


def test_a_program_is_run_anew_for_each_test_and_prints_its_own_times(tmp_path, model, monkeypatch):
    monkeypatch.setattr(arena, "SETTLE_S", 0.001)
    program = tmp_path / "ik_llama" / "build" / "bin" / "llama-bench"
    program.parent.mkdir(parents=True)
    script = """#!{python}
import json, sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with Path({log!r}).open("a") as log:
    log.write(json.dumps(given) + "\\n")
if given["-rtr"] == "1":
    sys.exit("no memory to repack")
found = {{"build_commit": "abc", "build_number": 7, "flash_attn": True, "samples_ns": [9e9, 5e8]}}
print("reading tensors")
print(json.dumps([found], indent=1))
"""
    program.write_text(script.format(python=sys.executable, log=str(tmp_path / "log")))
    program.chmod(0o755)
    peers, _ = table.find(tmp_path)
    name = "ik_llama.cpp"
    peers = {name: peers[name]}
    workloads = [Workload(4, 0), TG, Workload(0, 2, 3), Workload(4, 0, 3), Workload(0, 2, 0, 2)]
    options = CompareOptions(str(model), peers=peers, threads=1, repetitions=2)
    found = arena.Arena(options, workloads)
    made = {}
    for row in found.rows(str(model), "tiny", lambda _: str(model)):
        made[row["test"]] = row["peers"]  # of the setting that can be loaded
    assert found.peers[name] == {
        "version": "ik_llama.cpp abc (7)",
        "flash_attention": True,
        "logits": "unknown",
    }
    # The second of a run's two samples counts.
    alone = made["pp4"][name]["variants"]
    assert list(alone) == ["no repack"] and alone["no repack"]["samples_ts"] == [8, 8]
    assert made["tg2 @ d3"][name]["variants"]["no repack"]["samples_ts"] == [4, 4]
    # What its program cannot do, or fails at, is absent and says why.
    assert made["pp4 @ d3"] == made["tg2 b2"] == {}
    assert "prompts at the beginning only" in found.absent[f"{name} (no repack) in pp4 @ d3"]
    assert "one sequence" in found.absent[f"{name} (no repack) in tg2 b2"]
    assert (
        "ended with code 1: no memory to repack" in found.absent[f"{name} (repack) on {model.name}"]
    )
    given = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"-gp": "3,2", "-p": "0", "-n": "0"}.items() <= given[-2].items()
    assert all(each["-m"] == str(model) and each["-t"] == "1" for each in given)


def test_every_peer_has_its_worker_and_names_formats_that_there_are():
    ftypes = (WORKERS / "llama_worker.py").read_text()
    for peer in table.PEERS.values():
        assert (WORKERS / peer.script).exists()
        for format in peer.formats or ():
            assert f'"{format}' in ftypes


def test_a_peer_gets_its_own_kind_of_file(model, tmp_path):
    peers = {"llama.cpp": "x", "transformers": "y"}
    found = store.Store(CompareOptions(str(model), peers=peers, cache=tmp_path, threads=1))
    assert found.ours(None) == str(model)
    assert found.theirs("llama.cpp", None) == str(model)
    assert found.theirs("transformers", None) is None  # a float32 file
    folder = found.theirs("transformers", "bf16")
    assert Path(folder, "config.json").exists()
    assert found.theirs("CTranslate2", "q6_k") is None


# ---- the same weights, the same tokens -------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        tiny.CONFIGS["llama-tied"],
        tiny.CONFIGS["qwen2-tied"],
        replace(CONFIG, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64)),
    ],
    ids=["llama", "tied", "qwen2", "scaled"],
)
def test_a_folder_holds_what_the_file_holds(tmp_path, config):
    weights = tiny.random_weights(config)
    path = tiny.write_gguf(tmp_path / "m.gguf", config, weights)
    with open_checkpoint(path) as checkpoint:
        folders.write_hf_folder(tmp_path / "m.hf", checkpoint, config)
    with open_checkpoint(tmp_path / "m.hf") as checkpoint:
        found = checkpoint.hyperparameters
        # The file format numbers nothing but 0 as an end of text that a config must name.
        assert replace(found, bos_token_id=None, eos_token_ids=()) == replace(
            config, bos_token_id=None, eos_token_ids=()
        )
        for name, expected in weights.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].float32(), expected)


def test_a_folder_is_made_once_and_never_by_half(model, tmp_path):
    found = folders.hf_folder(str(model), tmp_path)
    before = (found / "model.safetensors").stat().st_mtime_ns
    assert folders.hf_folder(str(model), tmp_path) == found
    assert (found / "model.safetensors").stat().st_mtime_ns == before

    def fail(source, target):
        target.mkdir()
        (target / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folders.ct2_folder(str(model), fail, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [found.name]

    def convert(source, target):
        assert source == found
        target.mkdir()

    made = folders.ct2_folder(str(model), convert, tmp_path)
    assert made.is_dir() and made.name == f"{found.stem}.ct2-int8"


def test_every_engine_reads_the_same_tokens(model):
    found = tokens.texts(3, 5, 40, CONFIG.vocab_size)
    with bench.Runner(model, [Workload(0, 2, 0, 3)], threads=1) as runner:
        for seq in range(3):
            expected = runner._token_ids(seq, 5, 40)
            np.testing.assert_array_equal(found[seq], expected)
    salted = tokens.texts(3, 5, 40, CONFIG.vocab_size, salt=13)
    assert (salted[:, 0] != found[:, 0]).all()
    np.testing.assert_array_equal(salted[:, 1:], found[:, 1:])
    assert salted.min() >= 0 and salted.max() < CONFIG.vocab_size
    assert tokens.texts(2, 4, 4, 10).shape == (2, 0)


# ---- pyroclast bench --peers -----------------------------------------------------------------


def run(*argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *map(str, argv)])
    return ended.value.code


def test_the_command_compares(model, capsys, tmp_path):
    # The folder has no engine, and those that this Python may have are not compared in float32.
    args = ("-m", model, "-p", 8, "-n", "2,3", "-r", 1, "-t", 1, "--kernels", "norm=numpy")
    assert run(*args, "--peers", tmp_path, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["test"] for row in found] == ["pp8", "tg2", "tg3"]
    for row in found:
        assert row["kernels"]["norm.f32"] == "numpy"
        assert isinstance(row["warnings"], list)
        assert row["n_threads"] == 1
    absent = json.dumps([row["absent"] for row in found])
    assert str(tmp_path) in absent or importlib.util.find_spec("openvino_genai")
    assert run(*args, "--peers", tmp_path) == 0
    assert "| tg3 |" in capsys.readouterr().out
    assert run("-m", "no such model", "--peers", tmp_path) == 1
    assert run(*args, "-r", 0, "--peers", tmp_path) == 2
    assert "repetitions must be at least 1, got 0" in capsys.readouterr().err


def test_the_command_needs_no_checkout(model, tmp_path):
    """The package as an install has it, run from a folder of its own."""
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [str(tmp_path / "engine"), str(tmp_path / "kernels")]
    words = ("bench", "-m", model, "-p", 0, "-n", 2, "-r", 1, "-t", 1, "--peers", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pyroclast", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "| tg2 |" in done.stdout
    assert "llama/bin/python is not there" in done.stdout


def test_every_argument_of_the_command_reaches_the_comparison(monkeypatch, model, tmp_path):
    seen = []

    def noted(options, workloads):
        seen.extend([options, workloads])
        return {"made_with": {"absent": {}, "warnings": []}, "rows": []}

    monkeypatch.setattr(comparison, "measure", noted)
    lists = ("-p", "1,2", "-n", "3", "-d", "4", "-b", "5")
    more = ("-r", 6, "-t", 7, "--kv-dtype", "f32", "--compute", "float32")
    rules = ("--kernels", "norm=numpy")
    python = tmp_path / "llama" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert run("-m", model, *lists, *more, *rules, "--peers", tmp_path, "--json") == 0
    options, workloads = seen
    assert workloads == [Workload(1, 0, 4, 5), Workload(2, 0, 4, 5), Workload(0, 3, 4, 5)]
    assert options.peers["llama.cpp"] == str(python)
    assert options.missing.keys() == set(table.PEERS) - {"pyroclast"} - options.peers.keys()
    plain = {"model": str(model), "repetitions": 6, "threads": 7, "kv_dtype": "f32"}
    plain |= {"compute": "float32", "kernels": "norm=numpy"}
    assert {name: getattr(options, name) for name in plain} == plain
