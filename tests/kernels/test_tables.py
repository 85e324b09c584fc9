"""Tuned tables: where they stand among the choices, whose they are, and files that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast.cli import main as cli
from pyroclast_kernels import tables
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.listing import report
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.registry import Variant, get_op
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.table_files import TableError
from pyroclast_kernels.tables import Entry, TunedTable

OP, SHAPE, WIDTH = "glu", "512", 320
OTHER_SHAPE, OTHER_WIDTH = "1024", 640


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and no environment that would say otherwise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYROCLAST_FROZEN", raising=False)
    monkeypatch.delenv("PYROCLAST_KERNELS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> str:
    """Adds to glu `test-twin` of the default's bit group, `test-other` of another one and
    `test-broken` that cannot run; the default's name."""
    op = get_op(OP)
    default = Selection("frozen").variant(OP)
    for name, group, reason in (
        ("test-twin", default.bit_group, ""),
        ("test-other", "other", ""),
        ("test-broken", default.bit_group, "no such hardware"),
    ):
        made = Variant(OP, name, op.formats, group, reason, lambda _: 1)
        monkeypatch.setitem(op.variants, name, made)
    return default.name


def entry(tokens: str = "few", variant: str = "test-twin", **changes: Any) -> Entry:
    default = Selection("frozen").variant(OP).name
    made = Entry(OP, "f32", SHAPE, "few", variant, default, 0.8)
    return replace(made, tokens=tokens, **changes)


def table(*entries: Entry, any_bits: bool = False) -> TunedTable:
    return TunedTable(tables.fingerprint(), tables.build_id(), entries, any_bits)


def recorded(rules: str | None = None, width: int = WIDTH) -> tuple[str, str, Selection]:
    """The variants that a call of that width is recorded with, for few tokens and for many."""
    recorder = Recorder(Selection(rules))
    recorder.call(
        OP,
        n_tokens=np.array([1]),
        gate_up=np.zeros((1, 2 * width), np.float32),
        out=np.zeros((1, width), np.float32),
        out_q8=None,
        d_ff=width,
        activation=0,
        gated=1,
    )
    [call] = recorder.calls
    return call.kernel.variant, (call.many or call.kernel).variant, recorder.selection


# ---- precedence ----------------------------------------------------------------------------


def test_a_table_chooses_for_its_shape_and_token_class_only(cache: Path, variants: str) -> None:
    tables.save(table(entry("many")))
    assert recorded()[:2] == (variants, "test-twin")
    assert recorded(width=OTHER_WIDTH)[:2] == (variants, variants)
    tables.save(table(entry("few"), entry("many"), entry("few", shape=OTHER_SHAPE)))
    assert recorded()[:2] == ("test-twin", "test-twin")
    assert recorded(width=OTHER_WIDTH)[:2] == ("test-twin", variants)
    assert cache.exists()


@pytest.mark.parametrize("rule", ["glu=numpy", "glu.f32=numpy", "*=numpy"])
def test_an_explicit_rule_beats_the_table(
    cache: Path, variants: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save(table(entry("few"), entry("many")))
    assert recorded(rule)[:2] == ("numpy", "numpy")
    monkeypatch.setenv("PYROCLAST_KERNELS", rule)
    assert recorded()[:2] == ("numpy", "numpy")
    assert recorded("norm=numpy")[:2] == ("test-twin", "test-twin")
    assert cache.exists() and variants


@pytest.mark.parametrize("how", ["rule", "rule among others", "environment"])
def test_frozen_leaves_the_table_out(
    cache: Path, variants: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save(table(entry("few"), entry("many")))
    if how == "environment":
        monkeypatch.setenv("PYROCLAST_FROZEN", "1")
    rules = {"rule": "frozen", "rule among others": "norm=numpy, frozen"}.get(how)
    few, many, selection = recorded(rules)
    assert (few, many, selection.table) == (variants, variants, "defaults")
    assert selection.table_notes == ["frozen: tuned tables are left out"]
    assert cache.exists()


@pytest.mark.parametrize(("value", "frozen"), [("", False), ("0", False), ("1", True)])
def test_the_environment_says_frozen_with_anything_but_0(
    cache: Path, variants: str, value: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save(table(entry()))
    monkeypatch.setenv("PYROCLAST_FROZEN", value)
    assert (recorded()[0] == variants) is frozen
    assert cache.exists()


def test_results_name_the_table_and_what_ran(cache: Path, variants: str) -> None:
    assert recorded()[2].table == "defaults"
    made = table(entry("many"))
    tables.save(made)
    selection = recorded()[2]
    assert selection.table == made.name and made.name.startswith("tuned-")
    assert selection.resolved == {"glu.f32": "+".join(sorted([variants, "test-twin"]))}
    rows = {row["variant"]: row for row in report() if row["op"] == OP}
    assert rows[variants]["status"] == "chosen"
    assert (rows["test-twin"]["status"], rows["test-twin"]["reason"]) == ("tuned", "for 512 many")
    assert cache.exists()


def test_the_name_stands_for_choices_not_for_times() -> None:
    made = table(entry(), entry("many", variant="test-other"))
    assert made.name == table(entry(ratio=0.7), entry("many", variant="test-other")).name
    assert made.name != table(entry()).name
    default = entry().default
    assert table(entry(variant=default)).name == table().name
    assert table(entry(), any_bits=True).name == f"{table(entry()).name}-any-bits"


# ---- what of a table does not hold -----------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("gone", "is no compiled variant"),
        ("numpy", "is no compiled variant"),
        ("test-broken", "no such hardware"),
        ("test-other", "bit group"),
    ],
)
def test_an_entry_that_cannot_hold_is_passed_over_with_a_note(
    cache: Path, variants: str, variant: str, reason: str
) -> None:
    tables.save(table(entry("few", variant), entry("many")))
    few, many, selection = recorded()
    assert (few, many) == (variants, "test-twin")
    assert any(reason in note and variant in note for note in selection.table_notes)
    assert cache.exists()


def test_bits_must_not_depend_on_the_number_of_tokens(cache: Path, variants: str) -> None:
    tables.save(table(entry("few", "test-other"), entry("many"), any_bits=True))
    few, many, selection = recorded()
    assert (few, many) == (variants, variants)
    assert "number of tokens" in selection.table_notes[0]
    both = table(entry("few", "test-other"), entry("many", "test-other"), any_bits=True)
    tables.save(both)
    assert recorded()[:2] == ("test-other", "test-other")
    assert cache.exists()


def test_the_command_kernels_tells_what_does_not_hold(
    cache: Path, variants: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = table(entry("few", "gone"), entry("many"))
    tables.save(made)
    with pytest.raises(SystemExit):
        cli.main(["kernels", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["table"] == made.name and "glu.f32=gone" in found["table_notes"][0]
    with pytest.raises(SystemExit):
        cli.main(["kernels", "--frozen"])
    lines = capsys.readouterr().out.splitlines()
    assert "table: defaults; frozen: tuned tables are left out" in lines
    assert cache.exists() and variants


# ---- whose it is -----------------------------------------------------------------------------


def test_another_cpu_s_table_is_ignored(
    cache: Path, variants: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save(table(entry()))
    monkeypatch.setattr(tables, "fingerprint", lambda: "0123456789ab")
    few, _, selection = recorded()
    assert (few, selection.table) == (variants, "defaults")
    assert "other machines" in selection.table_notes[0]
    assert cache.exists()


def test_another_build_s_table_is_ignored(
    cache: Path, variants: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.save(table(entry()))
    monkeypatch.setattr(tables, "build_id", lambda: "0123456789ab")
    few, _, selection = recorded()
    assert (few, selection.table) == (variants, "defaults")
    assert "other kernels" in selection.table_notes[0]
    assert cache.exists()


def test_a_file_renamed_to_fit_is_refused(cache: Path, variants: str) -> None:
    foreign = replace(table(entry()), cpu="0123456789ab")
    path = tables.save(foreign)
    path.rename(tables.path_for(tables.fingerprint(), tables.build_id()))
    few, _, selection = recorded()
    assert few == variants and "its cpu is '0123456789ab'" in selection.table_notes[0]
    assert cache.exists()


def test_the_fingerprint_changes_with_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables.fingerprint()
    facts = tables.machine()
    assert facts["cpus"] >= 1 and len(before) == 12
    monkeypatch.setattr(tables, "machine", lambda: {**facts, "microcode": "0xnew"})
    assert tables.fingerprint() != before


def test_the_build_changes_with_a_kernel_of_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables.build_id()
    source = tmp_path / "glu" / "numba_mine.py"
    source.parent.mkdir()
    source.write_text("one")
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(tmp_path))
    first = tables.build_id()
    source.write_text("other")
    assert len({before, first, tables.build_id()}) == 3


def test_a_machine_that_was_never_tuned_is_told(cache: Path, variants: str) -> None:
    assert tables.current() == (None, "this machine has not been tuned (`pyroclast tune`)")
    assert recorded()[:2] == (variants, variants)
    assert not cache.exists()


# ---- files that are no tables ------------------------------------------------------------------


def good() -> dict[str, Any]:
    made = table(entry(), entry("many"))
    path = tables.save(made)
    raw: dict[str, Any] = json.loads(path.read_text())
    return raw


def spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[], str]:
    def text() -> str:
        raw = good()
        change(raw)
        return json.dumps(raw)

    return text


def entry_with(**changes: Any) -> Callable[[], str]:
    return spoil(lambda raw: raw["entries"][0].update(changes))


BAD = {
    "empty": (lambda: "", "cut or no JSON"),
    "cut": (lambda: json.dumps(good())[:-20], "cut or no JSON"),
    "no text": (lambda: "\udcff\udcfe", "cut or no JSON"),
    "deep": (lambda: "[" * 200_000, "cut or no JSON"),
    "a list": (lambda: "[]", "kind"),
    "foreign": (lambda: '{"kind": "something else"}', "kind"),
    "of the future": (spoil(lambda raw: raw.update(schema=2)), "schema is 2"),
    "of another build": (spoil(lambda raw: raw.update(build="x")), "build is 'x'"),
    "no entries": (spoil(lambda raw: raw.pop("entries")), "entries"),
    "entries no list": (spoil(lambda raw: raw.update(entries={})), "entries"),
    "any_bits a word": (spoil(lambda raw: raw.update(any_bits="yes")), "any_bits"),
    "made a list": (spoil(lambda raw: raw.update(made=[])), "made"),
    "entry no object": (spoil(lambda raw: raw.update(entries=[1])), "entry 0"),
    "field missing": (spoil(lambda raw: raw["entries"][1].pop("shape")), "entry 1"),
    "field too many": (entry_with(more=1), "entry 0"),
    "name no text": (entry_with(variant=3), "entry 0"),
    "name too long": (entry_with(op="x" * 65), "entry 0"),
    "tokens unknown": (entry_with(tokens="some"), "some"),
    "ratio no number": (entry_with(ratio="fast"), "ratio"),
    "ratio true": (entry_with(ratio=True), "ratio"),
    "ratio infinite": (entry_with(ratio=float("inf")), "ratio"),
    "ratio zero": (entry_with(ratio=0), "ratio"),
    "twice": (spoil(lambda raw: raw["entries"].append(raw["entries"][0])), "two entries"),
    "too large": (lambda: " " * (5 << 20), "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_table_is_not_used_and_the_reason_is_told(
    cache: Path, variants: str, name: str
) -> None:
    make, words = BAD[name]
    text = make()
    path = tables.path_for(tables.fingerprint(), tables.build_id())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TableError, match=words):
        tables.load(path, tables.fingerprint(), tables.build_id())
    few, many, selection = recorded()
    assert (few, many, selection.table) == (variants, variants, "defaults")
    [note] = selection.table_notes
    assert words in note and str(path) in note
    assert cache.exists()


def test_every_cut_of_a_table_is_refused(cache: Path, variants: str) -> None:
    text = json.dumps(good())
    path = tables.path_for(tables.fingerprint(), tables.build_id())
    for n_bytes in range(0, len(text), 7):
        path.write_text(text[:n_bytes])
        assert tables.current()[0] is None
    assert cache.exists() and variants


def test_a_directory_in_the_place_of_a_table_is_told(cache: Path, variants: str) -> None:
    tables.path_for(tables.fingerprint(), tables.build_id()).mkdir(parents=True)
    assert recorded()[0] == variants
    assert "is not used" in recorded()[2].table_notes[0]
    assert cache.exists()


def test_a_pipe_in_the_place_of_a_table_does_not_hang(cache: Path, variants: str) -> None:
    path = tables.path_for(tables.fingerprint(), tables.build_id())
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert recorded()[0] == variants
    assert cache.exists()


# ---- writing -----------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was(cache: Path) -> None:
    made = replace(table(entry(), entry("many")), made={"cpu": "x", "date": "today"})
    path = tables.save(made)
    assert tables.load(path, made.cpu, made.build) == made
    assert tables.current() == (made, "")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.is_relative_to(cache)


def test_a_cache_directory_that_cannot_be_written_is_an_error_with_advice(
    cache: Path, variants: str
) -> None:
    cache.write_text("a file")
    with pytest.raises(KernelError, match="XDG_CACHE_HOME"):
        tables.save(table(entry()))
    assert recorded()[0] == variants  # and reading goes on with the defaults


def test_a_disk_that_fills_up_leaves_the_old_table_whole(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tables.save(table(entry()))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KernelError, match="No space left"):
        tables.save(table(entry("many")))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert cache.exists()


# ---- shape classes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "arguments", "wanted"),
    [
        ("matmul", {"n_rows": 960, "n_cols": 576}, "1024x1024"),
        ("matmul", {"n_rows": 1024, "n_cols": 1025}, "1024x2048"),
        ("matmul", {"n_rows": 1, "n_cols": 32}, "1x32"),
        ("attention", {"head_dim": 64, "n_heads": 9, "n_kv_heads": 3}, "d64g3"),
        ("rope", {"head_dim": 80}, "d80"),
        ("norm", {"d_model": 576}, "1024"),
        ("residual", {"d_model": 2048}, "2048"),
        ("qk_norm", {"n_heads": 14, "n_kv_heads": 2, "head_dim": 64}, "16x64"),
        ("sample", {"vocab_size": 49152}, "65536"),
        ("pack", {"n_rows": 3}, "any"),
    ],
)
def test_the_shape_class_of_a_call(op: str, arguments: dict[str, Any], wanted: str) -> None:
    assert tables.shape_class(op, arguments) == wanted


@pytest.mark.parametrize(("n", "wanted"), [(1, "few"), (16, "few"), (17, "many"), (512, "many")])
def test_the_token_class_of_a_call(n: int, wanted: str) -> None:
    assert tables.tokens_of(np.array([n])) == wanted
    assert tables.tokens_of(None) == "few"
