"""The report: what is on its page, and that nothing else runs there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pyroclast.lab.report.case_names import CASE_NAMES
from pyroclast.lab.report.charts import Axis, describe, views_of
from pyroclast.lab.report.data import read_folder
from pyroclast.lab.report.html import Markup, number, percent, tag, time
from pyroclast.lab.report.page import page
from pyroclast.lab.report.report import write_report
from pyroclast.lab.report.style import (
    RATIO_LIMITS,
    RATIO_STEPS,
    SHARE_STEPS,
    TECHNOLOGIES,
    contrast,
    css,
    ink_on,
    technology_of,
)
from pyroclast.lab.report.tables import ratio_step, share_step
from pyroclast.lab.speed.kernel_file import save
from pyroclast.lab.speed.rows import Results
from pyroclast_kernels.registry import OP_NAMES
from report_results import CEILINGS, ROWS, Page, engine, failed, make_row, write_results

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def drawn(tmp_path: Path) -> Page:
    folder = write_results(tmp_path / "results", ROWS)
    (folder / "engine_a.json").write_text(json.dumps(engine()))
    return Page(page(read_folder(folder), None))


# ---- what is on the page -----------------------------------------------------------------------


def test_the_page_says_what_was_measured(drawn: Page) -> None:
    for words in (
        "Test CPU", "31%", "two roundings", "element 7 is 2, must be 1", "memory 20.0 GB/s",
        "fma 70.0", "100 tokens/s", "other engine, repack", "1 thread, warm", "1.0e-12", "25%",
        "1 wrong, crashed or hung",
    ):  # fmt: skip
        assert words in drawn.text, words
    assert not drawn.open


def test_the_contents_lead_to_every_section(drawn: Page) -> None:
    headings = [a["id"] for name, a in drawn.tags if name == "h2"]
    links = [a["href"] for name, a in drawn.tags if name == "a"]
    assert links == [f"#{key}" for key in headings]
    assert len(set(headings)) == len(headings) == 6


def test_times_and_the_names_of_cases_stand_on_the_page(drawn: Page) -> None:
    assert "2.00 µs" in drawn.text  # a tooltip has the spread beside it
    assert "tokens x width" in drawn.text
    assert set(CASE_NAMES) == set(OP_NAMES)


def test_engines_of_the_same_machine_come_first(tmp_path: Path) -> None:
    folder = write_results(tmp_path, ROWS, cpu="B")
    for cpu in "ABC":
        content = engine()
        content["made_with"]["cpu"] = cpu
        (folder / f"engine_{cpu}.json").write_text(json.dumps(content))
    text = Page(page(read_folder(folder), None)).text
    assert text.index("engine_B.json") < text.index("engine_A.json") < text.index("engine_C.json")


def test_the_page_needs_no_network(drawn: Page) -> None:
    for name, attributes in drawn.tags:
        assert name not in ("link", "iframe", "object", "img", "base", "form"), name
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_only_our_script_may_run(tmp_path: Path) -> None:
    text = page(read_folder(write_results(tmp_path, ROWS)), None)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a for t, a in Page(text).tags if a.get("http-equiv"))["content"] or ""
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_nothing_of_a_result_file_is_markup(tmp_path: Path) -> None:
    names = ("op", "format", "case", "variant", "reason", "error_message", "device")
    bad = dict.fromkeys(names, HOSTILE)
    rows = (make_row(**bad, roofline_limit=HOSTILE), failed(**{**bad, "case": HOSTILE + "2"}))
    folder = write_results(tmp_path, rows, **dict.fromkeys(("cpu", "commit", "date"), HOSTILE))
    peers = {HOSTILE: {"best": HOSTILE, "variants": {HOSTILE: {
        "median_ts": 1.0, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}}}}  # fmt: skip
    content = engine(label=HOSTILE, test=HOSTILE, n_threads=HOSTILE, peers=peers)
    content["made_with"]["cpu"] = HOSTILE
    (folder / "engine_x.json").write_text(json.dumps(content))
    ceiling = replace(CEILINGS[0], kind=HOSTILE, unit=HOSTILE, how=HOSTILE)
    made = {"cpu": HOSTILE}
    save(folder / "kernels.json", Results(rows, (ceiling,), made, {HOSTILE: HOSTILE}))
    found = Page(page(read_folder(folder), None))
    assert [name for name, _ in found.tags].count("script") == 1
    assert "img" not in [name for name, _ in found.tags]
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert found.text.count(HOSTILE) > 10


def test_markup_is_what_tag_made_and_nothing_else() -> None:
    assert tag("b", "<i>", Markup("<i></i>")) == "<b>&lt;i&gt;<i></i></b>"
    assert tag("a", class_='"x"', data_op=None) == '<a class="&quot;x&quot;"></a>'


def test_the_page_fits_a_phone_and_can_be_read(drawn: Page) -> None:
    """No width in pixels beyond 390; what may be wider scrolls in a box that the keyboard
    reaches; tables have captions, drawings have names."""
    wide = [int(n) for n in re.findall(r"(?<!max-)(?<!min-)width:(\d+)px", css(1, 1))]
    assert max(wide) <= 390 - 32
    viewport = next(a for _, a in drawn.tags if a.get("name") == "viewport")
    assert viewport["content"] == "width=device-width, initial-scale=1"
    names = [name for name, _ in drawn.tags]
    boxes = [a for _, a in drawn.tags if a.get("class") == "scroll"]
    assert len(boxes) == names.count("table") == names.count("caption") > 0
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    for name, attributes in drawn.tags:
        if name == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")
            assert "width" not in attributes or attributes["width"] == "0"
        if name == "th":
            assert attributes["scope"] in ("row", "col", "rowgroup")


def test_every_choice_hides_what_was_not_chosen(drawn: Page) -> None:
    inputs = [a for name, a in drawn.tags if name == "input"]
    chosen = {a["id"] for a in inputs}
    first = [a["id"] for a in inputs if "checked" in a]
    assert first == ["view-0", "op-0", "metric-share"]
    classes = {c for _, a in drawn.tags for c in (a.get("class") or "").split()}
    style = css(n_views=2, n_ops=1)
    metrics = {"metric-share", "metric-ratio", "metric-time"}
    assert {"view-0", "view-1", "op-0", "op-1"} | metrics == chosen
    assert {"v0", "v1", "o1"} <= classes
    for name in chosen - {"op-0"}:
        assert f"#{name}:checked" in style


def test_colours_can_be_told_from_their_ground() -> None:
    for colour in (*SHARE_STEPS, *RATIO_STEPS):
        assert contrast(ink_on(colour), colour) >= 4.5
    style = css(1, 1)
    for scheme in style.split("prefers-color-scheme:dark", 1)[0], style.split("scheme:dark", 1)[1]:
        found = dict(re.findall(r"--(\w+):(#\w{6})", scheme.split("}}")[0]))
        for name in ("ink", "soft", "ember", "good", "bad"):
            for ground in ("paper", "panel"):
                assert contrast(found[name], found[ground]) >= 4.5, (name, ground)
    for light, dark, _ in TECHNOLOGIES.values():
        assert contrast(light, "#fdfbf8") >= 3 and contrast(dark, "#16130f") >= 3


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = write_results(tmp_path / "results", ROWS)
    (folder / "engine_a.json").write_text(json.dumps(engine()))
    first = write_report(folder, tmp_path / "one")
    second = write_report(folder, tmp_path / "two")
    assert [p.name for p in first.pngs] == [
        "roofline.png",
        "heat_map.png",
        "numpy.png",
        "peers.png",
    ]
    for one, two in zip([first.page, *first.pngs], [second.page, *second.pngs], strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        first.page.name, *(p.name for p in first.pngs)
    }  # fmt: skip


def test_a_result_without_rows_has_a_page(tmp_path: Path) -> None:
    text = page(read_folder(write_results(tmp_path, ())), None)
    assert "Test CPU" in Page(text).text


# ---- figures -----------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    shown = [number(n) for n in (None, 0, 0.01234, 1.5, 12.34, 1234.5, 2e7, 1e-9)]
    assert shown[1:] == ["0", "0.0123", "1.50", "12.3", "1,234", "2.0e+07", "1.0e-09"]
    assert time(0.5) == "500 ns" and time(2500.0) == "2.50 ms" and time(3e6) == "3.00 s"
    assert percent(0.034) == "3.4%" and percent(1.27) == "127%"


def test_colours_of_the_heat_map_follow_the_figures() -> None:
    assert [share_step(s) for s in (0.0, 0.19, 0.5, 1.0, 7.0)] == [0, 1, 5, 9, 9]
    assert [ratio_step(r) for r in (0.1, 1.0, 3.0, 99.0)] == [0, 3, 5, 9]
    assert len(RATIO_STEPS) == len(RATIO_LIMITS) + 1


def test_an_axis_is_logarithmic_and_holds_its_values() -> None:
    axis = Axis([0.1, 1000.0])
    steps = [axis(10.0 ** (i + 1)) - axis(10.0**i) for i in range(-1, 3)]
    assert max(steps) - min(steps) < 1e-9
    assert 0 < axis(0.1) < axis(1000.0) < 100
    assert axis.ticks() == [0.1, 1.0, 10.0, 100.0, 1000.0]


def test_technologies_are_told_by_name() -> None:
    levels = ("cpp-baseline", "cpp-avx2", "cpp-avx512vnni", "cpp-mine")
    names = ("numpy", "numpy-blas", "numba-rows", "cython", *levels, "triton", "mine")
    assert [technology_of(name) for name in names] == list(TECHNOLOGIES)
    assert [technology_of(f"cpp-{level}") for level in ("avxvnni", "avx512", "avx512int8")] == [
        "C++ AVX2", "C++ AVX-512", "C++ AVX-512",
    ]  # fmt: skip


def test_views_and_tooltips() -> None:
    assert [view.name for view in views_of(ROWS)] == ["1 thread, cold", "1 thread, warm"]
    assert "drifted" in describe(make_row(status="drifted"))
    assert "2.00 µs" in describe(make_row()) and "drifted" not in describe(make_row())
