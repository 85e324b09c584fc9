"""`pyroclast bench kernels`: what is planned, and what becomes of kernels that go wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyroclast.cli import main as cli
from pyroclast.errors import KernelError
from pyroclast.lab.check.inputs import copy_of, n_bytes, n_copies
from pyroclast.lab.speed import measure, timing
from pyroclast.lab.speed.child import Child, ChildError
from pyroclast.lab.speed.kernel_file import load
from pyroclast.lab.speed.measure import KernelBench
from pyroclast.lab.speed.rows import BLAS, Row
from pyroclast.lab.speed.run import Run, Settings, plan
from pyroclast_kernels.cases import bench_cases, op_cases
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import Kernel, all_variants

# Variants that a folder of one's own may hold; each a whole file.
_DEF = "def norm_f32(args, part, n_parts):\n    "
BROKEN = {
    "numba_crash.py": _DEF + "store_i64(load_pointer(args, 56), 0, 1)\n",  # d_model as an address
    "numba_raise.py": "raise RuntimeError('not today')\n",
    "numba_wrong.py": _DEF + "pass\n",
}
HEAD = """\
from pyroclast_kernels.numba.simd import load_pointer, store_i64
OP = "norm"
FORMATS = ("f32",)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a variant that crashes, one that raises and one that computes nothing."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in BROKEN.items():
        (folder / name).write_text(HEAD + text)
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return folder


def rows_of(settings: Settings) -> tuple[Row, ...]:
    run = Run(settings, plan(settings))
    for _ in run.measure():
        pass
    return run.results().rows


def test_every_op_has_cases_worth_timing() -> None:
    for op in OP_NAMES:
        cases = bench_cases(op)
        assert cases and len({(case.format, case.name) for case in cases}) == len(cases)
        assert all(case.bytes for case in cases), op
        known = {(case.format, case.name): case for case in op_cases(op)}
        for case in cases:  # a name that both lists have means the same inputs
            twin = known.get((case.format, case.name), case)
            assert (twin.flops, twin.bytes) == (case.flops, case.bytes)


def test_the_plan_has_every_variant_of_every_case() -> None:
    jobs = plan(Settings(threads=(1, 2)))
    got = {(j.case.op, j.case.format, j.case.name, j.variant, j.n_threads) for j in jobs}
    assert len(got) == len(jobs)
    for op in OP_NAMES:
        variants = all_variants(op)
        for case in bench_cases(op):
            for name, variant in variants.items():
                once = variant.launch is not None  # threads are nothing to a GPU
                for n_threads in (1,) if once else (1, 2):
                    assert (op, case.format, case.name, name, n_threads) in got
                assert not once or (op, case.format, case.name, name, 2) not in got
    assert {job.case.op for job in jobs if job.variant == BLAS} == {"matmul"}
    assert len(plan(Settings(every_case=True))) > len(plan(Settings()))


def test_patterns_choose() -> None:
    jobs = plan(Settings(ops=["norm", "gl*"], variants=["cpp-*"], cases=["*-q8"]))
    assert {job.case.op for job in jobs} == {"norm", "glu"}
    assert all(job.variant.startswith("cpp-") and "-q8" in job.case.name for job in jobs)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"ops": ["conv"]}, "no op matches 'conv'; there are embed, norm"),
        ({"formats": ["q9_9"]}, "no format matches 'q9_9'; there are f32"),
        ({"variants": ["fast"]}, "no variant matches 'fast'; there are .*numpy"),
        ({"ops": ["norm"], "cases": ["7x7"]}, "no case matches '7x7'; there are 1x2048"),
    ],
)
def test_what_matches_nothing_lists_what_there_is(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        plan(Settings(**wanted))


@pytest.mark.slow
def test_a_kernel_that_goes_wrong_is_a_row_and_the_others_are_measured(own: Path) -> None:
    assert own
    names = ["numba-crash", "numba-raise", "numba-wrong", "numpy"]
    rows = rows_of(
        Settings(ops=["norm"], variants=names, cases=["1x2048", "1x2048-q8"], seconds=0.01)
    )
    assert len(rows) == 2 * 2 * len(names)
    said = {(row.case, row.variant): row for row in rows}
    for case in ("1x2048", "1x2048-q8"):
        crash, error, wrong, right = (said[case, name] for name in names)
        assert crash.status == "crashed" and "SIGSEGV" in crash.error_message
        assert error.status == "crashed" and "not today" in error.error_message
        assert wrong.status == "wrong" and f"norm.f32-{case}: out[0, " in wrong.error_message
        assert (wrong.error_share or 0) > 1 and wrong.median_us is None
        assert right.status in ("ok", "drifted") and (right.median_us or 0) > 0
        assert right.passed and not wrong.passed and not crash.passed


def test_a_child_that_does_not_answer_is_stopped_and_started_again() -> None:
    with Child(1) as child:
        begin = time.monotonic()
        with pytest.raises(ChildError, match=r"no answer within 0.01 s") as error:
            child.ask({"do": "check", "op": "softmax", "variant": "numpy", "pattern": None}, 0.01)
        assert error.value.kind == "hung" and time.monotonic() - begin < 60
        job = {"do": "check", "op": "norm", "variant": "numpy", "pattern": "2x40"}
        assert child.ask(job, 120) == {"n_cases": 1, "failures": []}
        with pytest.raises(ChildError, match="KeyError") as error:
            child.ask({**job, "variant": "fast"}, 120)
        assert error.value.kind == "crashed"


def test_a_timing_is_repeated_while_the_anchor_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = KernelBench(1)
    anchors = iter([100.0] * 1 + [130.0, 130.0] + [100.0, 100.0] + [150.0] * 99)
    monkeypatch.setattr(bench, "_best_anchor_us", 100.0)
    monkeypatch.setattr(bench.machine, "anchor_us", lambda: next(anchors))
    what = ("norm", "f32", "1x2048", "numpy", 0.001)
    timed = {"cold": 0, "warm": 0}

    def counted(cache: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            timed[cache] += 1
            return function(*given)

        return call

    for cache in timed:
        monkeypatch.setattr(timing, cache, counted(cache, getattr(timing, cache)))
    times = bench.measure(*what)["times"]
    # cold: 100 before and 130 after; 130 before and 100 after; 100 before ... and then 150
    assert timed["cold"] == 3 and times["cold"]["anchor_us"] == 130.0
    # bounded: it never held still
    assert timed["warm"] == measure._MAX_ATTEMPTS and times["warm"]["anchor_us"] == 150.0


def test_cold_copies_exceed_the_cache_and_share_only_working_memory() -> None:
    case = bench_cases("attention")[0]
    arguments = case.make()
    assert n_copies(arguments, 1 << 27) * n_bytes(arguments) >= 1 << 27
    copy = copy_of(arguments)
    assert copy["scratch"] is arguments["scratch"] and copy["counters"] is arguments["counters"]
    assert copy["k_cache"] is not arguments["k_cache"]
    assert copy["qkv"].ctypes.data % 64 == 0


def test_warm_and_cold_time_one_call() -> None:
    """A call that sleeps takes as long as it sleeps, however many are made."""
    calls = []

    def sleeps(**arguments: Any) -> None:
        calls.append(id(arguments["x"]))
        time.sleep(0.002)

    kernel = Kernel("norm", "f32", "sleeps", function=sleeps)
    arguments = next(c for c in bench_cases("norm") if c.name == "512x2048").make()
    warm = timing.warm(kernel, arguments, None, 0.02)
    assert 2000 < warm.median_us < 200_000
    assert len(set(calls)) == 1
    calls.clear()
    cold = timing.cold(kernel, arguments, None, 0.05)
    assert 2000 < cold.median_us < 200_000
    assert len(set(calls)) > 1


@pytest.mark.slow
def test_the_command_writes_rows_and_prints_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kernels.json"
    words = ["bench", "kernels", "--op", "norm", "--case", "1x2048", "--threads", "1", "--quick"]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--out", str(out), "--json"])
    assert end.value.code == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = load(out).rows
    assert [row["variant"] for row in printed] == [row.variant for row in rows]
    timed = {row.variant for row in rows if row.is_timed}
    assert timed == {n for n, v in all_variants("norm").items() if not v.unavailable}
    for row in rows:
        if row.is_timed:
            assert row.n_runs >= 5 and (row.iqr_us or 0) >= 0
            assert (row.ratio_to_numpy == 1) == (row.variant == "numpy")
            assert row.gb_s == pytest.approx(row.n_bytes / (row.median_us or 1) / 1e3)
    with pytest.raises(SystemExit):
        cli.main(words)
    text = capsys.readouterr().out
    assert "norm.f32 1x2048, 1 thread" in text and "numpy" in text


def test_rows_that_are_done_are_kept_when_a_run_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: Run, on_done: Callable[[int], None]) -> Iterator[list[Row]]:
        key = ("norm", "f32", "1x2048", "numpy", 1)
        rows = [Row(*key, cache, "ok", median_us=3.0, iqr_us=0.1) for cache in ("cold", "warm")]
        run._rows += rows
        on_done(1)
        yield rows
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "measure", interrupted)
    out = tmp_path / "kernels.json"
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "kernels", "--op", "norm", "--out", str(out)])
    assert end.value.code == 130
    assert [row.median_us for row in load(out).rows] == [3.0, 3.0]
    assert "has the 2 rows measured so far" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "kernels", "--op", "norm", "--out", "/no/such/folder/k.json"])
    assert end.value.code == 1
    assert "the folder /no/such/folder does not exist" in capsys.readouterr().err
