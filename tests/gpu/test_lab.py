"""The kernel lab on variants that are launched on a GPU: checked everywhere, timed there alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast.lab.check.check import Prepared, check_case
from pyroclast.lab.profile import replay
from pyroclast.lab.scaffold import scaffold
from pyroclast.lab.speed import gpu
from pyroclast.lab.speed.child import Child
from pyroclast.lab.speed.make_rows import KernelJob, rows_of, with_roofline
from pyroclast.lab.speed.measure import KernelBench
from pyroclast.lab.speed.row_lines import case_lines
from pyroclast.lab.speed.rows import MeasuredCeiling, as_dict, with_drift
from pyroclast.lab.speed.run import Run, Settings, plan
from pyroclast_kernels.cases import bench_cases, op_cases
from pyroclast_kernels.gpu import timing as triton_timing
from pyroclast_kernels.registry import OP_NAMES, get_op
from pyroclast_kernels.triton import ceiling as triton_ceiling
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits

TIMED = not triton_device.INTERPRETED


@pytest.fixture
def fake():
    """Registers norm=triton-<name>, a launch in plain torch; what it does to `out` may be wrong."""
    op, names = get_op("norm"), []

    def register(name, spoil=lambda out: None, rounds=False):
        def launch(limits, *, n_tokens, rows, x, weight, out, out_q8, d_model, eps):
            assert isinstance(limits, Limits) and rows is None and out_q8 is None
            n = int(n_tokens[0])
            scale = torch.rsqrt(x[:n].square().mean(dim=-1, keepdim=True) + eps)
            out[:n] = x[:n] * scale * weight
            spoil(out)

        op.gpu_variant(f"triton-{name}", rounds=rounds)(lambda format: launch)
        variant = op.variants[f"triton-{name}"]
        # In the interpreter nothing rounds; here it stands for a GPU that does.
        op.variants[variant.name] = replace(variant, rounds=rounds)
        names.append(variant.name)
        return variant.name

    yield register
    for name in names:
        del op.variants[name]


def job(name: str) -> KernelJob:
    [case] = [case for case in bench_cases("norm") if case.name == "1x2048"]
    return KernelJob(case, name, 1)


def test_a_launch_is_checked_and_not_timed_in_the_interpreter(fake: Any) -> None:
    name = fake("right")
    answer = KernelBench(1).measure("norm", "f32", "1x2048", name, 0.01)
    assert answer["errors"] == [] and answer["accuracy"]["error_share"] < 1
    assert ("times" in answer) == TIMED
    assert answer["gpu"]["name"] == triton_ceiling.about()["name"]
    if TIMED:
        assert all(answer["times"][cache]["n_runs"] >= 5 for cache in ("cold", "warm"))
        return
    rows = rows_of(job(name), "checked", gpu.NOT_TIMED, answer)
    assert [(row.status, row.passed, row.is_timed) for row in rows] == [
        ("checked", True, False)
    ] * 2
    assert rows[0].device == ""
    assert f"{name}       checked: right; not timed, because Triton's" in list(case_lines(rows))[2]


def test_a_wrong_launch_is_wrong(fake: Any) -> None:
    name = fake("wrong", lambda out: out[0, 3:4].add_(0.1))
    answer = KernelBench(1).measure("norm", "f32", "1x2048", name, 0.01)
    assert len(answer["errors"]) == 1 and "out[0, 3]" in answer["errors"][0]
    assert "times" not in answer
    [case] = [case for case in op_cases("norm") if case.name == "2x40"]
    assert "out[0, 3]" in check_case(case, name)[0].what


def test_a_variant_that_rounds_has_a_bound_of_its_own(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variant.rounds decides, in the check and in the row; the tight bound holds for the rest."""

    def shift(out: Any) -> None:
        out[0, 5:6].add_(0.01)

    exact, rounding = fake("exact", shift), fake("rounding", shift, rounds=True)
    [case] = [case for case in bench_cases("norm") if case.name == "1x2048"]
    loose = replace(case, rounded=lambda arguments, expected: 0.02)
    monkeypatch.setattr("pyroclast.lab.speed.measure.find_case", lambda *_: loose)
    for name, allowed in ((exact, False), (rounding, True)):
        answer = KernelBench(1).measure("norm", "f32", "1x2048", name, 0.001)
        assert (answer["errors"] == []) == allowed, name
        assert (answer["accuracy"]["error_share"] < 1) == allowed
        assert (answer["accuracy"]["tolerance"] == 0.02) == allowed
        assert (check_case(loose, name) == []) == allowed


def test_bounds_are_kept_apart() -> None:
    [case] = [case for case in op_cases("norm") if case.name == "2x40"]
    loose = replace(case, rounded=lambda arguments, expected: 0.5)
    prepared = Prepared(loose)
    got = {**prepared.after, "out": prepared.after["out"] + np.float32(0.1)}
    for _ in range(2):
        assert prepared.differences(got, rounds=True) == []
        assert len(prepared.differences(got, rounds=False)) == 1
    # A case without a bound of its own for those is as tight for all.
    assert len(Prepared(case).differences(got, rounds=True)) == 1


def test_only_the_first_number_of_threads_has_launches(fake: Any) -> None:
    name = fake("once")
    jobs = plan(Settings(ops=["norm"], variants=[name, "numpy"], threads=(1, 3)))
    threads = {
        variant: {j.n_threads for j in jobs if j.variant == variant} for variant in (name, "numpy")
    }
    assert threads == {name: {1}, "numpy": {1, 3}}
    assert gpu.timed([("norm", name)]) == TIMED and not gpu.timed([("norm", "numpy")])


def test_the_lab_checks_the_packages_own_variant(fake: Any) -> None:
    """Through the child process, which inherits the choice of the interpreter."""
    settings = Settings(ops=["glu"], variants=["triton"], cases=["1x*"], seconds=0.02)
    run = Run(settings, plan(settings))
    shown = [line for rows in run.measure() for line in case_lines(rows)]
    results = run.results()
    assert {row.status for row in results.rows} == {"ok" if TIMED else "checked"}
    assert {bool(row.device) for row in results.rows} == {TIMED}
    assert any("triton" in line for line in shown)
    assert {"copy", "matmul"} <= {c.kind for c in results.ceilings} or not TIMED
    for row in results.rows:
        assert as_dict(row, {})["backend_name"] == ("CUDA" if TIMED else "CPU")


def test_kernels_check_answers_for_a_launch() -> None:
    with Child(1) as child:
        job = {"do": "check", "op": "glu", "variant": "triton", "pattern": "1x1"}
        found = child.ask(job, 240)
    assert found["n_cases"] >= 1 and found["failures"] == []


# A pattern for each op that has a template: a few small cases.
FIRST = {
    "norm": "2x",
    "glu": "1x",
    "softmax": "wide-17-",
    "rope": "1h1k2d",
    "matmul": "-1x1x32",
}


def test_a_file_of_ones_own_is_right_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a variant takes NumPy arrays and copies by itself: no launch, timed with its copies."""
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(tmp_path))
    assert set(FIRST) == {op for op in OP_NAMES if scaffold.template(op, "triton").is_file()}
    with Child(1) as child:
        for op, pattern in FIRST.items():
            written = scaffold.new_variant(op, "mine", "triton", None)
            job = {"do": "check", "op": op, "variant": written["variant"], "pattern": pattern}
            found = child.ask(job, 240)
            assert found["n_cases"] >= 1 and found["failures"] == [], op
            assert gpu.launched(op, "triton-mine") is None


# ---- shares of what the device can do ----------------------------------------------------------
CEILINGS = [
    MeasuredCeiling("copy", 0, 4000.0, "GB/s", 1 << 31),
    MeasuredCeiling("matmul", 0, 800_000.0, "Gop/s"),
    MeasuredCeiling("read", 1, 10.0, "GB/s", 1 << 20),
]


def on_device(fake: Any) -> Any:
    """Rows as a GPU would give them: 100 us cold, 50 us replayed."""
    times = {
        cache: {
            "median_us": us, "iqr_us": 1.0, "n_runs": 9, "anchor_us": None,
        }
        for cache, us in (("cold", 100.0), ("warm", 50.0))
    }  # fmt: skip
    answer = {"times": times, "accuracy": {}, "gpu": {"name": "Some GPU", "isa": "sm_90"}}
    return rows_of(job(fake("timed")), "ok", "", answer)


def test_rows_carry_the_gpus_name(fake: Any) -> None:
    for row in on_device(fake):
        assert row.device == as_dict(row, {})["device_description"] == "Some GPU, sm_90"
        assert with_drift([row]) == [row]  # no anchor, no drift


def test_a_cold_call_is_held_against_the_copy_a_replayed_one_is_not(fake: Any) -> None:
    cold, warm = (replace(row, n_bytes=200_000_000, n_flops=1_000_000) for row in on_device(fake))
    found = with_roofline(cold, CEILINGS)
    assert found.roofline_share == pytest.approx(0.2 / 4000 * 1e9 / 1e3 / 100)
    assert found.roofline_limit == "copy"
    assert with_roofline(warm, CEILINGS).roofline_limit == "matmul"
    busy = replace(warm, n_flops=20_000_000_000)
    assert with_roofline(busy, CEILINGS).roofline_share == pytest.approx(0.5)
    assert gpu.roofline(1e-4, 0, 0, CEILINGS, "cold") == (None, "")
    assert gpu.roofline(1e-4, 5, 5, [], "cold") == (None, "")


def test_a_profile_leaves_launches_to_the_bench(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fake("elsewhere")
    bound = []
    monkeypatch.setattr(replay, "bind", lambda op, format, n: bound.append(n) or (None, "not now"))
    call = SimpleNamespace(
        kernel=SimpleNamespace(op="norm", format="f32"), running=lambda: SimpleNamespace(variant="")
    )
    monkeypatch.setattr(replay, "op_name", lambda _: "norm")
    program = SimpleNamespace(calls=[call], executor=None)
    monkeypatch.setattr(
        replay,
        "Program",
        lambda calls, executor: SimpleNamespace(
            calls=[SimpleNamespace(kernel=SimpleNamespace(function=print))]
        ),
    )
    alone = {each.variant: each for each in replay._replay_op(program, "norm", None)}
    assert name not in bound and "numpy" in bound
    assert alone[name].us is None and "bench kernels" in alone[name].reason


# ---- the clock -----------------------------------------------------------------------------------
class Clock:
    """What triton_timing asks of torch.cuda, on a clock that only kernels move: a call takes 7 us,
    and 3 us more with a cold L2."""

    def __init__(self) -> None:
        self.now_us, self.is_cold, self.captured, self.n_calls = 0.0, False, None, 0

    def call(self) -> None:
        self.n_calls += 1
        if self.captured is not None:
            self.captured.n += 1
        else:
            self.now_us += 7.0 + 3.0 * self.is_cold
            self.is_cold = False

    def as_cuda(self) -> Any:
        clock = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = clock.now_us

            def elapsed_time(self, other):
                return (other.at - self.at) / 1000

        class Graph:
            n = 0

            def replay(self):
                clock.now_us += 7.0 * self.n

        class Capture:
            def __init__(self, graph):
                clock.captured = graph

            def __enter__(self):
                pass

            def __exit__(self, *_):
                clock.captured = None

        stream = SimpleNamespace(wait_stream=lambda other: None)
        return SimpleNamespace(
            Event=Event, CUDAGraph=Graph, graph=Capture, synchronize=lambda: None,
            Stream=lambda: stream, current_stream=lambda: stream,
            stream=lambda s: torch.no_grad(),
        )  # fmt: skip


class Flush:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.n_bytes = clock, triton_timing.FLUSH_BYTES

    def __getitem__(self, key: slice) -> Flush:
        assert key.stop < self.n_bytes
        return self

    def view(self, dtype: Any) -> Flush:
        return self

    def fill_(self, value: int) -> None:
        assert 0 <= value < 256
        self.clock.is_cold = True

    def sum(self) -> None:
        assert self.clock.is_cold


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(triton_timing, "_flush_buffer", lambda: Flush(found))
    fields = {name: getattr(torch, name) for name in ("int64", "uint8")}
    monkeypatch.setattr(triton_timing, "torch", SimpleNamespace(cuda=found.as_cuda(), **fields))
    return found


def test_every_cold_sample_follows_a_flush(clock: Clock) -> None:
    timed = triton_timing.cold(clock.call, 0.0)
    assert len(timed.samples_us) == 5 == timed.n_runs
    assert timed.samples_us == pytest.approx([10.0] * 5)
    assert clock.n_calls == 6  # and one that compiles
    many = triton_timing.cold(clock.call, 60.0)
    assert len(many.samples_us) == 200  # however long it may take


def test_a_replay_is_divided_by_its_calls(clock: Clock) -> None:
    timed = triton_timing.replayed(clock.call, 100.0, 0.0)
    assert timed.samples_us == pytest.approx([7.0] * 5)
    assert timed.n_runs == 5 * 20 and "20 calls" in timed.how
    assert "of 1 calls" in triton_timing.replayed(clock.call, 9e9, 0.0).how
    assert "of 50 calls" in triton_timing.replayed(clock.call, 0.0, 0.0).how


def test_arguments_are_placed_once() -> None:
    [case] = [case for case in op_cases("matmul") if str(case) == "matmul.q8_0-3x17x96"]
    arguments = case.make()
    limits, given = triton_timing.placed(arguments)
    assert limits.n_tokens == 3
    assert given["weight"].format == "q8_0" and given["n_rows"] == 17
    assert given["x"].shape[-1] == 64 and given["x"].device.type == triton_device.device().type
    assert given["bias"] is None
    calls = []
    triton_timing.call_of(lambda limits, **rest: calls.append((limits, rest)), arguments)()
    assert calls[0][0] == limits and set(calls[0][1]) == set(arguments)


def test_ceilings_are_rates() -> None:
    copy, matmul = triton_ceiling.measure()
    assert (copy["kind"], copy["unit"]) == ("copy", "GB/s") and copy["value"] > 0
    assert (matmul["kind"], matmul["unit"]) == ("matmul", "Gop/s") and matmul["value"] > 0
    assert copy["n_bytes"] > 0
