"""Result files: what is written comes back, and what is not right is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pyroclast.lab.speed.machine import read_size, roofline
from pyroclast.lab.speed.make_rows import with_drift, with_ratios, with_roofline
from pyroclast.lab.speed.rows import (
    BLAS,
    Ceiling,
    ResultFileError,
    Results,
    Row,
    as_dict,
    by_case,
    load,
    save,
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
    plain |= {"cache": "cold", "status": "ok", "samples_us": (1.0, 2.5)}
    return Row(**(plain | changes))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    rows = (make_row(), make_row(cache="warm", median_us=None, time_us=None, status="crashed"))
    results = Results(
        rows, (Ceiling("read", 2, 31.5, "GB/s", 1 << 20, "how"),), {"a": 1}, {"b": []}
    )
    save(tmp_path / "k.json", results)
    assert load(tmp_path / "k.json") == results


def test_rows_have_every_field_of_llama_cpps() -> None:
    assert set(as_dict(make_row())) >= LLAMA_CPP_FIELDS


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    save(tmp_path / "k.json", Results((make_row(nmse=float("nan"), max_abs_error=float("inf")),)))
    [row] = load(tmp_path / "k.json").rows
    assert row.nmse is None and row.max_abs_error is None


def edit(content: dict[str, Any], change: str) -> None:
    if change == "version":
        content["version"] = 99
    elif change == "schema":
        content["schema"] = "llama-bench"
    elif change == "rows":
        content["rows"].pop()
    elif change == "field":
        del content["rows"][1]["variant"]
    elif change == "extra":
        content["rows"][0]["speed"] = 1
    elif change == "type":
        content["rows"][0]["n_threads"] = "two"
    elif change == "status":
        content["rows"][0]["status"] = "fine"
    else:
        content["ceilings"] = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("version", "version 99.*reads 1"),
        ("schema", "llama-bench"),
        ("rows", "is cut: it promises 2 rows and has 1"),
        ("field", r"row 1 .*lacks \['variant'\]"),
        ("extra", r"row 0 .*beside \['speed'\]"),
        ("type", "row 0.n_threads is 'two'"),
        ("status", "status is 'fine', must be one of ok, drifted"),
        ("ceilings", "no list of ceilings"),
    ],
)
def test_another_file_is_refused_with_the_reason(change: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    save(path, Results((make_row(), make_row(cache="warm"))))
    content = json.loads(path.read_text())
    edit(content, change)
    path.write_text(json.dumps(content))
    with pytest.raises(ResultFileError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    save(path, Results((make_row(),), (Ceiling("fma", 1, 100.0, "Gop/s"),)))
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
    Ceiling("read", 1, 10.0, "GB/s", read_size(4 << 25)),
    Ceiling("read", 1, 80.0, "GB/s", 1 << 20),
    Ceiling("fma", 1, 100.0, "Gop/s"),
]


def test_the_roofline_is_the_limit_that_binds() -> None:
    bound_by_memory = roofline(1e-3, 1000, 1_000_000, "fma", CEILINGS, "warm")
    assert bound_by_memory == (pytest.approx(1e6 / 80e9 / 1e-3), "read")
    assert roofline(1e-3, 50_000_000, 1000, "fma", CEILINGS, "warm") == (pytest.approx(0.5), "fma")
    # A CPU without VNNI has no such ceiling: the products are multiply-adds of floats there.
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
    row = make_row(op=op, format=format, median_us=1000.0, n_bytes=0, n_flops=50_000_000)
    found = with_roofline(replace(row, n_threads=ceilings[0].n_threads), ceilings)
    assert found.roofline_limit == kind


def test_a_cold_call_reads_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroclast.lab.speed.machine.cache_bytes", lambda: 1 << 25)
    cold, warm = (
        with_roofline(
            make_row(op="norm", cache=cache, median_us=1000.0, n_bytes=1 << 20, n_flops=0), CEILINGS
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
    assert with_drift(make_row(anchor_us=110.0), 100.0).status == "ok"
    drifted = with_drift(make_row(anchor_us=130.0), 100.0)
    assert drifted.status == "drifted" and drifted.anchor_drift == pytest.approx(0.3)
    assert with_drift(make_row(status="wrong", anchor_us=None), 100.0).status == "wrong"
