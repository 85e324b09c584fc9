"""Bugs planted in correct kernels: `pyroclast kernels check` must name the case and the element."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyroclast.cli import main as cli
from pyroclast.lab.check import check
from pyroclast.lab.check.check import Prepared, check_case
from pyroclast.lab.check.inputs import guarded
from pyroclast.lab.scaffold import scaffold
from pyroclast_kernels.cases import op_cases

# name of the bug -> (op, what is replaced in the generated kernel, by what, what the message says)
BUGS = {
    "wrong-tail": (
        "norm",
        "for i in range(d_model):\n            y[",
        "for i in range(d_model // 16 * 16):\n            y[",
        r"norm\.f32-1x1: out\[0, 0\] is .*, expected .* within",
    ),
    "missing-scale": (
        "norm",
        "(x[i] - mean) * scale * weight[i]",
        "(x[i] - mean) * weight[i]",
        r"norm\.f32-\d+x\d+\S*: out\[\d+, \d+\] is .*, expected .* within",
    ),
    "swapped-stride": (
        "softmax",
        "(n_rows, out_stride)",
        "(n_rows, logits_stride)",
        r"softmax\.f32-\S+: out\[\d+, \d+\] is .*, expected .* within",
    ),
    "window-off-by-one": (
        "attention",
        "max(0, end - window)",
        "max(0, end - window - 1)",
        r"attention\.f32-\S+-window\d+: out\[\d+, \d+\] is .*, expected .* within",
    ),
    "wrong-row-offset": (
        "pack",
        "at = row + offset",
        "at = row",
        r"pack\.f32-\S+: weight\[\d+, \d+\] is .*, expected .* within",
    ),
    "missing-bias": (
        "matmul",
        "total += bias[row]",
        "total += np.float32(0) * bias[row]",
        r"matmul\.f32-3x50x64-bias: out\[\d+, \d+\] is .*, expected .* within",
    ),
    "stale-accumulate": (
        "matmul",
        "out[t, row] + total if accumulate else total",
        "out[t, row] + total",
        r"matmul\.f32-\S+: out\[\d+, \d+\] is .*, expected .* within",
    ),
    "ignored-n-tokens": (
        "norm",
        "n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)",
        "n_tokens = load_i64(load_pointer(args, N_TOKENS), 0) + 1",
        r"norm\.f32-1x1: out\[1, 0\] is .*, expected .* within",
    ),
    "wrong-part-split": (
        "glu",
        "range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts))",
        "range(n_tokens // n_parts * part, n_tokens // n_parts * (part + 1))",
        r"glu\.f32-\S+: out\[\d+, \d+\] is .*, expected .* run in 6 parts",
    ),
    "order-of-parts": (
        "matmul",
        "total += weight[row // 16, k, row % 16] * x[t, k]",
        "at = (k + part) % n_cols; total += weight[row // 16, at, row % 16] * x[t, at]",
        r"matmul\.f32-\S+: the bits depend on how it is run: out\[\d+, \d+\] is \S+ and was \S+,",
    ),
    "writes-past-the-end": (
        "rope",
        "position, seq = positions[t], seq_index[t]",
        "position, seq = positions[t], seq_index[t]; qkv[t, n_rotated + n_kv_heads, 0] = 0",
        r"rope\.f32-1h1k2d-1@0: writes outside qkv: byte \d after its end",
    ),
    "spoils-its-input": (
        "glu",
        "gate = gate_up[t, i]",
        "gate = gate_up[t, i]\n            gate_up[t, i] = 0",
        r"glu\.f32-1x1: writes to its input gate_up",
    ),
    "segmentation-fault": (
        "glu",
        "gate = gate_up[t, i]",
        "gate = carray(load_pointer(args, D_FF), (1, 1), np.float32)[t, i]",
        r"glu\.f32-1x1: crashed: the process died of SIGSEGV",
    ),
    "never-ends": (
        "quantize",
        "for i in range(0, n_cols, 32):",
        "while load_i64(args, N_COLS) > 0:\n            i = 0",
        r"quantize\.f32-1x32: hung: no answer within 6 s",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own variants, and a compile cache that goes with it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", "")  # undone with what --dir adds
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return tmp_path / "kernels"


def plant(folder: Path, op: str, name: str, old: str, new: str) -> None:
    source = scaffold.source(op, name, "numba")
    assert source.count(old) == 1, f"{op}: the text to spoil is not there once"
    (folder / op).mkdir(parents=True)
    path = folder / op / f"numba_{name.replace('-', '_')}.py"
    path.write_text(source.replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_and_named(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    op, old, new, message = BUGS[name]
    plant(folder, op, name, old, new)
    words = ["kernels", "check", op, f"numba-{name}", "--dir", str(folder), "--no-time"]
    words += ["--case=-17-"] if op == "softmax" else []  # of 530 cases those of one size
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--timeout", "6" if name == "never-ends" else "120"])
    said = capsys.readouterr().out
    assert end.value.code == 1
    assert re.search(message, said), said
    assert re.search(r"\d+ failures?$", said.rstrip())


@pytest.mark.slow
def test_without_a_bug_there_is_no_complaint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, "glu", "right", "OP =", "OP =")
    with pytest.raises(SystemExit) as end:
        cli.main(["kernels", "check", "glu", "right", "--dir", str(folder), "--no-time"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "glu=numba-right: 55 cases, all match the reference\n"


def test_the_check_asks_for_the_same_bits_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that changes by its last bit from run to run is inside every tolerance."""
    case = next(case for case in op_cases("norm") if case.name == "1x576-q8")
    run_on, n_runs = check.run_on, [0]

    def unsteady(kernel: object, arguments: dict, executor: object) -> None:
        run_on(kernel, arguments, executor)
        n_runs[0] += 1
        if n_runs[0] == 2:
            arguments["out"].view("i4")[0, 7] += 1

    monkeypatch.setattr(check, "run_on", unsteady)
    [failure] = check_case(case, "numpy")
    assert "out[0, 7] is" in failure.what and "a second time" in failure.what
    assert failure.case == "norm.f32-1x576-q8"


def test_a_write_beside_an_array_is_seen_on_both_sides() -> None:
    case = op_cases("norm")[1]
    copy = guarded(case.make())
    assert copy.broken() == []
    memory = copy.guards["out"]
    memory[255] = 0
    assert copy.broken() == ["out: byte -1 before its beginning"]
    memory[255] = 0xA5
    memory[-256] = 0
    assert copy.broken() == ["out: byte 0 after its end"]


def test_accuracy_tells_error_tolerance_and_share() -> None:
    prepared = Prepared(op_cases("norm")[1])
    got = {**prepared.after, "out": prepared.after["out"].copy()}
    assert prepared.accuracy(got).max_abs_error == 0 == prepared.accuracy(got).nmse
    got["out"][0, 3] += 0.5
    found = prepared.accuracy(got)
    assert found.max_abs_error == pytest.approx(0.5, rel=1e-6)
    assert found.nmse == pytest.approx(0.25 / float((prepared.after["out"] ** 2).sum()), rel=1e-5)
    assert found.error_share > 1
    assert 0 < found.tolerance < 1e-3
    got["out"][0, 3] = float("nan")
    assert prepared.accuracy(got).max_abs_error == float("inf")
