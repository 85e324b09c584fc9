"""What a row of `pyroclast bench` says: work, ceilings and shares."""

import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest

import tiny
import tiny_experts
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import config_of
from pyroclast.lab.speed import throughput as bench
from pyroclast.lab.speed import throughput_rows as bench_rows
from pyroclast.lab.speed.throughput import Runner, Workload
from pyroclast.lab.speed.throughput_rows import MachineLimit

# d_model and d_ff are multiples of 32: every format fits.
CONFIG = tiny.BASE
WEIGHTS = tiny.random_weights(CONFIG)


@pytest.mark.parametrize(
    ("quant", "arithmetic"), [("Q8_0", "vnni"), ("Q4_0", "vnni"), ("F16", "fma"), ("F32", "fma")]
)
def test_the_arithmetic_is_that_of_the_weights(tmp_path, quant, arithmetic):
    path = tiny.write_gguf(tmp_path / "model.gguf", CONFIG, WEIGHTS, quant)
    with open_checkpoint(path) as checkpoint:
        format = bench.main_format(checkpoint)
    assert format == quant.lower()
    assert bench_rows.arithmetic_of(format, "cpp-avx2", 512) == arithmetic
    with Runner(path, [Workload(1, 0)], threads=1, compute="float32") as runner:
        assert runner.format == "f32"


@pytest.mark.parametrize("kind", ["vnni", "int8"])
def test_products_of_bytes_are_held_against_what_the_cpu_has(tmp_path, monkeypatch, kind):
    path = tiny.write_gguf(tmp_path / "model.gguf", CONFIG, WEIGHTS, "Q8_0")
    with Runner(path, [Workload(1, 0)], threads=1) as runner:
        limits = bench_rows.MachineLimits(runner)
        if limits._machine is None:
            pytest.skip("nothing native was built")
        monkeypatch.setattr(bench_rows.machine, "kernels", lambda: {kind: 1})
        monkeypatch.setattr(limits._machine, "arithmetic_gops", {kind: 9.0}.get)
        assert limits.measure(Workload(1, 0)) == MachineLimit(kind, 9.0, "Gop/s", "registers only")


@pytest.mark.parametrize(
    ("has_it", "is_fast", "kind"),
    [(True, True, "bf16"), (False, True, "fma"), (True, False, "fma")],
)
def test_bf16_counts_as_such_where_the_cpu_gains_by_it(monkeypatch, has_it, is_fast, kind):
    """Intel's dot products are slower than the multiply-adds that run there."""
    monkeypatch.setattr(bench_rows.machine, "kernels", lambda: {"bf16": 1} if has_it else {})
    monkeypatch.setattr(bench_rows.features, "has_fast_bf16_dot", lambda: is_fast)
    assert bench_rows.arithmetic_of("bf16", "cpp-avx2", 512) == kind


@pytest.mark.parametrize(
    ("n_tokens", "variants", "kind"),
    [
        (9, "cpp-amxbf16", "amxbf16"),
        (8, "cpp-amxbf16", "fma"),  # few tokens take multiply-adds
        (9, "cpp-amxbf16+cpp-avx2", "amxbf16"),  # a tuned table splits shapes
        (9, "cpp-avx512vnni", "fma"),
    ],
)
def test_a_prompt_in_matrix_registers_is_held_against_them(
    tmp_path, monkeypatch, n_tokens, variants, kind
):
    path = tiny.write_gguf(tmp_path / "model.gguf", CONFIG, WEIGHTS, "BF16")
    workload = Workload(n_tokens, 0)
    with Runner(path, [workload], threads=1) as runner:
        limits = bench_rows.MachineLimits(runner)
        if limits._machine is None:
            pytest.skip("nothing native was built")
        monkeypatch.setattr(type(runner.model), "kernels", {"matmul.bf16": variants})
        monkeypatch.setattr(bench_rows.machine, "kernels", lambda: {"amxbf16": 1})
        monkeypatch.setattr(limits._machine, "arithmetic_gops", {kind: 9.0}.get)
        assert limits.measure(workload) == MachineLimit(kind, 9.0, "Gop/s", "registers only")


@pytest.mark.native
def test_no_prompt_of_bf16_is_above_its_ceiling(tmp_path):
    """Held against dot products, matrix registers were at 400%."""
    config = replace(CONFIG, d_model=1024, d_ff=2048, n_heads=8, n_kv_heads=8, head_dim=128)
    path = tiny.write_gguf(tmp_path / "model.gguf", config, tiny.random_weights(config), "BF16")
    with Runner(path, [Workload(256, 0)], threads=1) as runner:
        [row] = bench_rows.measure(runner, [Workload(256, 0)], 3)
    # Neighbours may halve the rate while the ceiling is measured.
    assert row["roofline_share"] is None or row["roofline_share"] < 1.5


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
