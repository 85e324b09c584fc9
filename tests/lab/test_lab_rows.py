"""Result files: what is written comes back, and what is not right is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pyroclast.lab.speed.kernel_file import SIGNIFICANT, load, save
from pyroclast.lab.speed.machine import read_size, roofline
from pyroclast.lab.speed.make_rows import with_roofline
from pyroclast.lab.speed.rows import (
    BLAS,
    MeasuredCeiling,
    ResultFileError,
    Results,
    Row,
    as_dict,
    by_case,
    with_drift,
    with_ratios,
)

# What llama.cpp's test-backend-ops writes for a measurement (tests/test-backend-ops.cpp).
LLAMA_CPP_FIELDS = {
    "test_time", "build_commit", "backend_name", "op_name", "op_params", "test_mode", "supported",
    "passed", "error_message", "time_us", "flops", "bandwidth_gb_s", "memory_kb", "n_runs",
    "device_description", "backend_reg_name",
}  # fmt: skip


def make_row(**changes: Any) -> Row:
    plain: dict[str, Any] = {}
    for field in fields(Row):
        plain[field.name] = {"str": "x", "int": 1, "bool": True}.get(str(field.type), 1.0)
    plain |= {"cache": "cold", "status": "ok", "anchor_drift": 0.0}
    plain |= {"ratio_to_numpy": None, "ratio_to_blas": None}
    return Row(**(plain | changes))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    untimed: dict[str, Any] = dict.fromkeys(
        ("median_us", "iqr_us", "anchor_us", "anchor_drift", "roofline_share")
    ) | {"n_runs": 0, "roofline_limit": "", "status": "crashed", "variant": "y"}
    rows = (
        make_row(),
        make_row(cache="warm", median_us=2.5),
        make_row(variant="z", n_threads=2),  # timed with cold caches only
        make_row(**untimed),
        make_row(cache="warm", **untimed),
        make_row(case="another", device="Some GPU", anchor_us=None, anchor_drift=None),
    )
    results = Results(
        rows, (MeasuredCeiling("read", 2, 31.5, "GB/s", 1 << 20, "how"),), {"a": 1}, {"b": []}
    )
    save(tmp_path / "k.json", results)
    assert load(tmp_path / "k.json") == results


def test_what_follows_from_other_values_is_computed_again(tmp_path: Path) -> None:
    rows = (
        make_row(variant="numpy", median_us=80.0, anchor_us=100.0),
        make_row(variant="cpp-avx2", median_us=20.0, anchor_us=130.0),
    )
    save(tmp_path / "k.json", Results(rows))
    assert load(tmp_path / "k.json").rows == tuple(with_drift(with_ratios(rows)))
    assert load(tmp_path / "k.json").rows[1].status == "drifted"


def test_a_file_has_a_line_for_each_row_and_no_needless_digits(tmp_path: Path) -> None:
    rows = [make_row(variant=name, median_us=123.456789) for name in "abc"]
    rows += [replace(row, cache="warm") for row in rows]
    save(tmp_path / "k.json", Results(tuple(rows)))
    lines = (tmp_path / "k.json").read_text().splitlines()
    assert [sum(f'["{name}",' in line for line in lines) for name in "abc"] == [1, 1, 1]
    assert load(tmp_path / "k.json").rows[0].median_us == 123.5 and SIGNIFICANT == 4


def test_the_committed_results_are_small_and_can_be_read() -> None:
    path = Path(__file__).resolve().parents[2] / "bench" / "results" / "kernels.json"
    assert path.stat().st_size < 250_000
    rows = load(path).rows
    assert len({row.key for row in rows}) == len(rows) > 1000


def test_rows_have_every_field_of_llama_cpps() -> None:
    found = as_dict(make_row(median_us=2.0), {"commit": "abc", "date": "now", "cpu": "C"})
    assert set(found) >= LLAMA_CPP_FIELDS
    known = ("build_commit", "test_time", "device_description", "backend_name", "time_us")
    assert [found[name] for name in known] == ["abc", "now", "x", "CUDA", 2.0]
    found = as_dict(make_row(device="", n_flops=3000, n_bytes=2000, median_us=2.0), {"cpu": "C"})
    assert (found["device_description"], found["backend_name"]) == ("C", "CPU")
    assert (found["bandwidth_gb_s"], found["flops"], found["memory_kb"]) == (1.0, 1.5e9, 2)


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    bad = make_row(nmse=float("nan"), max_abs_error=float("inf"))
    save(tmp_path / "k.json", Results((bad,)))
    [row] = load(tmp_path / "k.json").rows
    assert row.nmse is None and row.max_abs_error is None
    assert as_dict(bad, {})["nmse"] is None


def edit(content: dict[str, Any], change: str) -> None:
    if change == "version":
        content["version"] = 99
    elif change == "schema":
        content["schema"] = "llama-bench"
    elif change == "rows":
        content["cases"][0]["rows"].pop()
    elif change == "field":
        del content["cases"][0]["format"]
    elif change == "extra":
        content["cases"][0]["speed"] = 1
    elif change == "type":
        content["cases"][0]["rows"][0][1] = "two"
    elif change == "status":
        content["cases"][0]["rows"][0][2] = "fine"
    elif change == "line":
        content["cases"][0]["rows"][1] += [1] * 99
    elif change == "columns":
        content["columns"][0] = "kernel"
    elif change == "lines":
        content["cases"][0]["rows"] = None
    else:
        content[change] = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("version", "version 99.*reads 2"),
        ("schema", "llama-bench"),
        ("rows", "is cut: it promises 2 rows and has 1"),
        ("field", r"case 0 .*lacks \['format'\]"),
        ("extra", r"case 0 .*beside \['speed'\]"),
        ("type", "row 0.n_threads is 'two', must be int"),
        ("status", "status is 'fine', must be one of ok, drifted"),
        ("line", "row 1 is damaged"),
        ("columns", "has the columns .*'kernel'"),
        ("lines", "case 0 has no list of rows"),
        ("cases", "has no list of cases"),
        ("ceilings", "has no ceilings"),
        ("settings", "has no settings"),
    ],
)
def test_another_file_is_refused_with_the_reason(change: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    save(path, Results((make_row(), make_row(variant="another"))))
    content = json.loads(path.read_text())
    edit(content, change)
    path.write_text(json.dumps(content))
    with pytest.raises(ResultFileError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    save(path, Results((make_row(),), (MeasuredCeiling("fma", 1, 100.0, "Gop/s"),)))
    whole = path.read_bytes()
    for length in [0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 3]:
        path.write_bytes(whole[:length])
        with pytest.raises(ResultFileError, match="cut or damaged"):
            load(path)
    with pytest.raises(ResultFileError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k.json"
    save(path, Results((make_row(variant="old"),)))

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultFileError, match=r"No space left.*"):
        save(path, Results((make_row(variant="new"),)))
    assert load(path).rows[0].variant == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["k.json"]
    with pytest.raises(ResultFileError, match="cannot be written"):
        save(tmp_path / "no folder" / "k.json", Results(()))


def test_rows_are_grouped_by_what_may_be_compared() -> None:
    rows = [make_row(variant="a"), make_row(variant="b"), make_row(variant="a", cache="warm")]
    assert [len(group) for group in by_case(rows).values()] == [2, 1]


# ---- arithmetic on rows ------------------------------------------------------------------------
CEILINGS = [
    MeasuredCeiling("read", 1, 10.0, "GB/s", read_size(4 << 25)),
    MeasuredCeiling("read", 1, 80.0, "GB/s", 1 << 20),
    MeasuredCeiling("fma", 1, 100.0, "Gop/s"),
]


def test_the_roofline_is_the_limit_that_binds() -> None:
    bound_by_memory = roofline(1e-3, 1000, 1_000_000, "fma", CEILINGS, "warm")
    assert bound_by_memory == (pytest.approx(1e6 / 80e9 / 1e-3), "read")
    assert roofline(1e-3, 50_000_000, 1000, "fma", CEILINGS, "warm") == (pytest.approx(0.5), "fma")
    # A CPU without VNNI has a ceiling of its own for bytes, or none: multiply-adds of floats count.
    int8 = [*CEILINGS, replace(CEILINGS[0], kind="int8", value=200.0, n_bytes=0)]
    assert roofline(1e-3, 50_000_000, 0, "vnni", int8, "warm") == (pytest.approx(0.25), "int8")
    assert roofline(1e-3, 50_000_000, 0, "vnni", CEILINGS, "warm") == (pytest.approx(0.5), "fma")
    assert roofline(1e-3, 1, 1, "fma", [], "warm") == (None, "")


@pytest.mark.parametrize(
    ("op", "format", "kind"),
    [
        ("matmul", "q8_0", "vnni"),
        ("gate_up", "q4_k", "vnni"),
        ("matmul", "f32", "fma"),
        ("attention", "f16", "fma"),
        ("norm", "q8_0", "fma"),
    ],
)
def test_the_format_says_what_products_multiply_with(op: str, format: str, kind: str) -> None:
    ceilings = [replace(CEILINGS[0], kind=kind, value=v, n_bytes=0) for kind, v in
                (("fma", 100.0), ("vnni", 400.0), ("bf16", 200.0))]  # fmt: skip
    row = make_row(op=op, format=format, device="", median_us=1000.0, n_bytes=0, n_flops=50_000_000)
    found = with_roofline(replace(row, n_threads=ceilings[0].n_threads), ceilings)
    assert found.roofline_limit == kind


@pytest.mark.parametrize(
    ("variant", "case", "kind"),
    [
        ("cpp-amxbf16", "64x960x320", "amxbf16"),
        ("cpp-amxbf16", "9x960x320-bias", "amxbf16"),
        ("cpp-amxbf16", "8x960x320", "fma"),  # few tokens take multiply-adds
        ("cpp-avx2", "64x960x320", "fma"),
    ],
)
def test_products_in_matrix_registers_are_held_against_them(
    monkeypatch: pytest.MonkeyPatch, variant: str, case: str, kind: str
) -> None:
    monkeypatch.setattr("pyroclast_kernels.ceiling.kernels", dict)
    work = {"median_us": 1000.0, "n_bytes": 0, "n_flops": 50_000_000, "n_threads": 1}
    row = make_row(op="matmul", format="bf16", variant=variant, case=case, device="", **work)
    known = [*CEILINGS, replace(CEILINGS[0], kind="amxbf16", value=500.0, n_bytes=0)]
    share = pytest.approx(0.1 if kind == "amxbf16" else 0.5)
    found = with_roofline(row, known)
    assert (found.roofline_limit, found.roofline_share) == (kind, share)
    if kind == "amxbf16":  # whose ceiling is not that of any other arithmetic
        assert with_roofline(row, CEILINGS).roofline_share is None


def test_a_cold_call_reads_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroclast.lab.speed.machine.cache_bytes", lambda: 1 << 25)
    cold, warm = (
        with_roofline(
            make_row(
                op="norm", device="", cache=cache, median_us=1000.0, n_bytes=1 << 20, n_flops=0
            ),
            CEILINGS,
        )
        for cache in ("cold", "warm")
    )
    assert cold.roofline_share == pytest.approx(8 * (warm.roofline_share or 0))
    other_threads = with_roofline(replace(warm, n_threads=2, roofline_share=0.5), CEILINGS)
    assert other_threads.roofline_share is None


def test_ratios_are_to_numpy_on_the_same_case() -> None:
    rows = with_ratios(
        [
            make_row(variant="numpy", median_us=80.0),
            make_row(variant="cpp-avx2", median_us=20.0),
            make_row(variant=BLAS, median_us=30.0),
            make_row(variant="cpp-avx2", median_us=10.0, cache="warm"),
            make_row(variant="numba", median_us=None, status="crashed"),
        ]
    )
    assert [row.ratio_to_numpy for row in rows] == [1, 4, pytest.approx(80 / 30), None, None]
    assert rows[1].ratio_to_blas == 1.5 and rows[3].ratio_to_blas is None


def test_a_row_that_drifted_says_so() -> None:
    rows = [make_row(anchor_us=us) for us in (100.0, 110.0, 130.0)]
    rows += [make_row(anchor_us=500.0, n_threads=2), make_row(anchor_us=None)]
    rows.append(make_row(status="wrong", anchor_us=None))
    found = with_drift(rows)
    assert [row.status for row in found] == ["ok", "ok", "drifted", "ok", "ok", "wrong"]
    assert [row.anchor_drift for row in found[:4]] == pytest.approx([0, 0.1, 0.3, 0])


def test_a_working_set_has_the_ceiling_of_the_power_of_two_below() -> None:
    sizes = (0, 1 << 20, (1 << 21) - 1, 1 << 21, (16 << 20) + 16_384)
    assert [read_size(size) >> 20 for size in sizes] == [1, 1, 1, 2, 16]


def test_no_committed_timing_is_above_its_ceiling() -> None:
    path = Path(__file__).resolve().parents[2] / "bench" / "results" / "kernels.json"
    above = [row.key for row in load(path).rows if (row.roofline_share or 0) > 1.1]
    assert above == []
