"""Results for the report, and its page taken apart."""

from __future__ import annotations

import json
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.kernel_file import save
from pyroclast.lab.speed.rows import MeasuredCeiling, Results, Row

CEILINGS = (
    MeasuredCeiling("read", 1, 20.0, "GB/s", 1 << 27, "4 streams"),
    MeasuredCeiling("read", 1, 90.0, "GB/s", 1 << 20, "1 stream"),
    MeasuredCeiling("fma", 1, 70.0, "Gop/s", 0, "registers only"),
)


def make_row(**changes: Any) -> Row:
    plain: dict[str, Any] = {}
    for field in fields(Row):
        plain[field.name] = {"str": "x", "int": 1, "bool": True}.get(str(field.type), 1.0)
    plain |= {
        "op": "norm", "format": "f32", "case": "1x64", "variant": "numba", "n_threads": 1,
        "cache": "cold", "status": "ok", "device": "", "n_flops": 4000, "n_bytes": 1000,
        "median_us": 2.0, "iqr_us": 0.02, "anchor_us": 100.0, "anchor_drift": 0.0,
        "roofline_share": 0.31, "ratio_to_numpy": 4.0, "error_share": 0.25,
        "max_abs_error": 1e-6, "nmse": 1e-12, "error_message": "", "reason": "two roundings",
    }  # fmt: skip
    return Row(**(plain | changes))


def failed(**changes: Any) -> Row:
    untimed = dict.fromkeys(
        ("median_us", "iqr_us", "anchor_us", "roofline_share", "ratio_to_numpy")
    )
    return make_row(status="wrong", **{**untimed, **changes})


def engine(**changes: Any) -> dict[str, Any]:
    peer = {"median_ts": 50.0, "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1}
    row = {
        "label": "tiny q8_0", "test": "tg8", "n_threads": 2, "median_ts": 100.0, "cpu": "C",
        "samples_ts": [99.0, 100.0, 101.0], "roofline_share": 0.5,
        "peers": {"other engine": {"best": "repack", "variants": {"repack": peer}}},
    }  # fmt: skip
    return {"made_with": {"cpu": "C"}, "rows": [{**row, **changes}]}


def write_results(folder: Path, rows: tuple[Row, ...], **environment: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = {"cpu": "Test CPU", "commit": "abc", **environment}
    save(folder / "kernels.json", Results(rows, CEILINGS, made, {"threads": [1]}))
    return folder


ROWS = (
    make_row(),
    make_row(variant="numpy", median_us=8.0, ratio_to_numpy=1.0),
    make_row(cache="warm"),
    failed(variant="cpp-avx2", error_share=3.4, error_message="element 7 is 2, must be 1"),
)


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags must nest"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + "\n"


def edited(folder: Path, **changes: Any) -> Path:
    content = json.loads((folder / "kernels.json").read_text())
    (folder / "kernels.json").write_text(json.dumps({**content, **changes}))
    return folder
