"""The report: what is in it, what is refused, what counts as a change, and that nothing runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pyroclast.errors import PyroclastError
from pyroclast.lab.report import png as report_png
from pyroclast.lab.report.case_names import CASE_NAMES
from pyroclast.lab.report.change import compare, noise_bound
from pyroclast.lab.report.charts import Axis, describe, views_of
from pyroclast.lab.report.data import read_folder
from pyroclast.lab.report.git import Commit, RevisionError
from pyroclast.lab.report.html import TIMES, Markup, number, percent, tag, time
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
from pyroclast.lab.speed.rows import MeasuredCeiling, ResultFileError, Results, Row
from pyroclast_kernels.registry import OP_NAMES

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
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


# ---- what is refused ---------------------------------------------------------------------------


def edited(folder: Path, **changes: Any) -> Path:
    content = json.loads((folder / "kernels.json").read_text())
    (folder / "kernels.json").write_text(json.dumps({**content, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 99}, "has version 99"),
        ({"n_rows": 7}, "is cut: it promises 7 rows"),
        ({"schema": "other"}, "not a result of `pyroclast bench kernels`"),
    ],
)
def test_another_version_and_a_cut_file_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ResultFileError, match=words):
        read_folder(edited(write_results(tmp_path, ROWS), **changes))


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = write_results(tmp_path, ROWS) / "kernels.json"
    path.write_text(path.read_text()[:900])
    with pytest.raises(ResultFileError, match=r"kernels\.json is cut or damaged"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("median_us", float("nan")), ("median_us", 0.0), ("iqr_us", -1.0), ("iqr_us", 10**400)],
)
def test_numbers_that_cannot_be_drawn_are_refused(tmp_path: Path, field: str, value: float) -> None:
    folder = write_results(tmp_path, ROWS)
    content = json.loads((folder / "kernels.json").read_text())
    [case] = content["cases"]
    case["rows"][0][content["columns"].index(f"cold_{field}")] = value
    edited(folder, cases=[case])
    with pytest.raises(ResultFileError, match=f"is damaged: {field} is"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "has no made_with"),
        ({"made_with": {}}, "has no rows"),
        (engine(median_ts=0), "above 0"),
        (engine(peers={"p": {"best": "a", "variants": {}}}), "lacks 'a'"),
        (engine(peers=[1]), "items"),
    ],
)
def test_engine_rows_that_are_none_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    (write_results(tmp_path, ROWS) / "engine_a.json").write_text(json.dumps(content))
    with pytest.raises(ResultFileError, match=f"not a result of bench/engine.py: .*{words}"):
        read_folder(tmp_path)


def test_suites_are_read_like_single_runs(tmp_path: Path) -> None:
    parts = {"a": {"result": engine()}, "b": {"left_out": "no time"}, "c": {"result": {"x": 1}}}
    suite = {"made_with": {"suite": "cpu"}, "parts": parts}
    (write_results(tmp_path, ROWS) / "engine_suite.json").write_text(json.dumps(suite))
    [file] = read_folder(tmp_path).engines
    assert [row.label for row in file.rows] == ["tiny q8_0"]


def test_a_folder_without_results_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="pyroclast bench kernels --out"):
        read_folder(tmp_path)
    with pytest.raises(ResultFileError, match="does not exist"):
        read_folder(tmp_path / "nowhere")


def test_of_several_kernel_files_one_must_be_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path, ROWS)
    (folder / "kernels.json").rename(folder / "kernels_a.json")
    assert read_folder(folder).kernels_file == "kernels_a.json"
    (folder / "kernels_b.json").write_text("{}")
    with pytest.raises(ResultFileError, match=r"kernels_a\.json, kernels_b\.json: give one"):
        read_folder(folder)
    assert read_folder(folder / "kernels_a.json").kernels_file == "kernels_a.json"


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(report_png.importlib, "import_module", missing)
    with pytest.raises(PyroclastError, match="pip install matplotlib"):
        write_report(write_results(tmp_path / "r", ROWS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


# ---- what counts as a change -------------------------------------------------------------------


def change_of(
    old: dict[str, Any], new: dict[str, Any], machine: str = "this one"
) -> tuple[str, str]:
    before = Results((make_row(**old),), environment={"cpu_fingerprint": "this one"})
    after = Results((make_row(**new),), environment={"cpu_fingerprint": machine})
    [found] = compare(before, after, [], []).changes
    return found.speed, found.numerics


@pytest.mark.parametrize(
    ("old", "new", "speed"),
    [
        ({}, {"median_us": 1.0}, "faster"),
        ({}, {"median_us": 4.0}, "slower"),
        ({}, {"median_us": 2.08}, "same"),  # within 5%
        ({"iqr_us": 0.4}, {"median_us": 1.7}, "same"),  # its spread was 20%
        ({}, {"median_us": 1.7, "iqr_us": 0.34}, "same"),  # and now it is
        ({}, {"median_us": 2.5, "anchor_drift": 0.3}, "same"),
        ({}, {"median_us": 2.5, "anchor_us": 130.0}, "same"),
    ],
)
def test_only_what_noise_cannot_be_is_marked(
    old: dict[str, Any], new: dict[str, Any], speed: str
) -> None:
    assert change_of(old, new) == (speed, "same")
    assert change_of(old, new, "another one") == ("other machine", "same")


@pytest.mark.parametrize(
    ("new", "numerics"),
    [
        ({"error_share": 0.5, "max_abs_error": 2e-6}, "worse"),
        ({"error_share": 0.1, "max_abs_error": 4e-7}, "better"),
        ({"error_share": 0.26}, "other bits"),
        ({"nmse": 2e-12}, "other bits"),
        ({"status": "crashed", "median_us": None, "error_share": None}, "broken"),
    ],
)
def test_numerics_are_held_against_each_other(new: dict[str, Any], numerics: str) -> None:
    assert change_of({}, new)[1] == numerics
    opposite = {"worse": "better", "better": "worse", "broken": "fixed"}
    assert change_of(new, {})[1] == opposite.get(numerics, numerics)


def test_the_bound_grows_with_what_is_known_of_the_noise() -> None:
    quiet = make_row()
    assert noise_bound(quiet, quiet) == 0.05
    assert noise_bound(quiet, make_row(iqr_us=0.2)) == pytest.approx(0.01 + 0.1)
    assert noise_bound(quiet, make_row(anchor_us=50.0)) == pytest.approx(0.02 + 1)


def test_engines_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    folder, verdicts = write_results(tmp_path, ROWS), []
    for changes in ({}, {"median_ts": 150.0}, {"median_ts": 150.0, "cpu": "another"}):
        (folder / "engine_a.json").write_text(json.dumps(engine(**changes)))
        verdicts.append(read_folder(folder).engines[0].rows)
    found = [compare(Results(()), Results(()), verdicts[0], new).engines for new in verdicts]
    assert [[each.speed for each in engines] for engines in found] == [["same"], ["faster"], []]


def test_engines_are_held_against_the_same_machine_and_file(tmp_path: Path) -> None:
    """Whatever order the files are in: two of this machine, one of another."""
    folder = write_results(tmp_path, ROWS)
    speeds = {"a": (100.0, "this"), "b": (200.0, "other"), "c": (300.0, "this")}
    for name, (median, cpu) in speeds.items():
        (folder / f"engine_{name}.json").write_text(json.dumps(engine(median_ts=median, cpu=cpu)))
    rows = [row for file in read_folder(folder).engines for row in file.rows]
    found = compare(Results(()), Results(()), rows[::-1], rows).engines
    assert len(found) == len(rows)
    assert all(change.old == change.new for change in found)


def test_rows_of_one_side_are_counted() -> None:
    found = compare(
        Results((make_row(), make_row(case="a"))), Results((make_row(case="b"),)), [], []
    )
    assert (found.n_new, found.n_gone, found.changes) == (1, 2, ())


def test_the_spread_comes_from_quartiles_or_older_files_runs(tmp_path: Path) -> None:
    folder = write_results(tmp_path, ROWS)
    new = engine(low_ts=90.0, high_ts=120.0, n_samples=5)
    del new["rows"][0]["samples_ts"]
    single = json.loads(json.dumps(new))
    single["rows"][0]["n_samples"] = 1
    old = engine(samples_ts=[80.0, 90.0, 100.0, 120.0, 200.0])
    for content, spread in ((new, 0.3), (old, 0.3), (single, 1.0), (engine(samples_ts=[]), 1.0)):
        (folder / "engine_a.json").write_text(json.dumps(content))
        [file] = read_folder(folder).engines
        assert file.rows[0].spread == pytest.approx(spread)
    del new["rows"][0]["low_ts"]
    (folder / "engine_a.json").write_text(json.dumps(new))
    with pytest.raises(ResultFileError, match="lacks 'low_ts'"):
        read_folder(folder)


# ---- against a commit --------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A commit with results, and newer ones in the working tree: one faster, one wrong."""
    folder = write_results(tmp_path / "repo" / "bench" / "results", ROWS[:3])
    (folder / "engine_a.json").write_text(json.dumps(engine()))
    git(tmp_path, "init", "-q", "repo")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "results")
    write_results(folder, (make_row(median_us=1.0), failed(variant="numpy", error_share=2.0)))
    fast = engine(median_ts=150.0, samples_ts=[149.0, 150.0, 151.0])
    (folder / "engine_a.json").write_text(json.dumps(fast))
    return folder


def test_against_a_commit(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = write_report(repository, tmp_path / "out", "HEAD")
    assert report.against is not None
    comparison = report.against.comparison
    assert comparison.counts["faster"] == 1 and comparison.counts["numerics broken"] == 1
    assert [change.speed for change in comparison.engines] == ["faster"]
    # What went wrong has a row for warm caches, too; the other kernel's warm row is gone.
    assert (comparison.n_new, comparison.n_gone) == (1, 1)
    text = Page(report.page.read_text()).text
    assert "Change since HEAD" in text and f"2.00{TIMES} faster" in text and "broken" in text
    assert "change.png" in {path.name for path in report.pngs}
    write_report(repository, tmp_path / "out")
    assert not (tmp_path / "out" / "change.png").exists()


def test_results_of_the_commit_may_be_refused_too(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    edited(repository, version=0)
    git(repository, "commit", "-qam", "old")
    write_results(repository, ROWS)
    with pytest.raises(ResultFileError, match=r"HEAD:.*has version 0"):
        write_report(repository, tmp_path / "out", "HEAD")
    git(repository, "rm", "-q", "--cached", "kernels.json")
    git(repository, "commit", "-qm", "gone")
    with pytest.raises(ResultFileError, match=r"has no kernels\.json"):
        write_report(repository, tmp_path / "out", "HEAD")


@pytest.mark.parametrize(
    "revision",
    ["", "--output=x", "-p", "HEAD; touch x", "HEAD:bench", "a b", "$(id)", "HEAD\nx", "a" * 300],
)
def test_a_revision_is_no_option_no_path_and_no_command(repository: Path, revision: str) -> None:
    with pytest.raises(RevisionError, match="is not a revision"):
        Commit(repository, revision)


def test_an_unknown_revision_and_no_repository(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="no such commit"):
        Commit(repository, "nothing-like-it")
    with pytest.raises(RevisionError, match=r"no such commit.*not a git repository"):
        Commit(tmp_path, "HEAD")
    with pytest.raises(RevisionError, match=r"no gone\.json: .*exist"):
        Commit(repository, "HEAD").read("gone.json")
    assert Commit(repository, "HEAD~0").files() == ["engine_a.json", "kernels.json"]


# ---- the command -------------------------------------------------------------------------------


def test_the_command(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from pyroclast.cli.main import main

    words = ["bench", "report", "--results", str(repository), "--against", "HEAD"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert found["against"]["counts"]["numerics broken"] == 1
    assert {c["speed"] for c in found["against"]["changes"]} == {"faster", "no longer timed"}
    with pytest.raises(SystemExit):
        main(words)
    assert "wrote" in capsys.readouterr().out
    assert (repository / "report" / "index.html").exists()
    with pytest.raises(SystemExit) as ended:
        main(["bench", "report", "--results", str(tmp_path / "none")])
    assert ended.value.code == 1
    assert "pyroclast: error:" in capsys.readouterr().err
