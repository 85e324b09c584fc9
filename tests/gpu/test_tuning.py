"""Tiles that a GPU's table chooses: how they are found, kept, read and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.cli import main as cli
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.gpu import tuning as triton_tuning
from pyroclast_kernels.matmul.triton.tiles import ValueTile
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.table_files import TableError
from pyroclast_kernels.triton import choices as triton_choices
from pyroclast_kernels.triton.choices import TiledProduct, TileTable
from stepping import load

CONFIG = replace(
    tiny.BASE,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_dim=32,
    d_model=64,
    d_ff=64,
    vocab_size=272,
    max_seq_len=64,
)
GREEDY = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
DEFAULT = ValueTile(64, 64, 16, 256, 4, 5)
OTHER = replace(DEFAULT, rows=32)
PRODUCT = TiledProduct("values", "bf16", 64, 64, 1, normed=False)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYROCLAST_FROZEN", raising=False)
    triton_choices._read.cache_clear()


def table(**tiles: Any) -> TileTable:
    entries = {PRODUCT: asdict(OTHER)} | tiles
    made = triton_choices.fingerprint(), triton_choices.build_id()
    return TileTable(*made, entries, dict.fromkeys(entries, 0.5), {"model": "mine"})


def choice(product: TiledProduct = PRODUCT, *, tuned: bool = True) -> ValueTile:
    return triton_choices.choose(product, tuned, DEFAULT, lambda: [OTHER], [])


# ---- the table ---------------------------------------------------------------------------------


def test_what_was_saved_is_chosen_where_it_is_wanted() -> None:
    assert choice() == DEFAULT
    assert "has not been tuned" in triton_choices.current()[1]
    path = triton_choices.save(table())
    found, why = triton_choices.current()
    assert found == table() and why == "" and found.name.startswith("tiles-")
    assert choice() == OTHER
    assert choice(tuned=False) == DEFAULT
    for change in ({"kernel": "gated"}, {"format": "f16"}, {"n_rows": 65}, {"n_cols": 65},
                   {"n_tokens": 16}, {"normed": True}):  # fmt: skip
        assert choice(replace(PRODUCT, **change)) == DEFAULT
    assert path.parent.name == "gpu"
    assert not list(path.parent.glob(".table*"))


def test_a_tile_that_the_kernel_would_not_take_is_passed_over() -> None:
    triton_choices.save(replace(table(), tiles={PRODUCT: asdict(replace(OTHER, rows=31))}))
    assert choice() == DEFAULT
    triton_choices.save(replace(table(), tiles={PRODUCT: {"rows": 32}}))
    assert choice() == DEFAULT


def test_steps_of_many_tokens_have_no_choice() -> None:
    assert [triton_choices.tokens_of(n) for n in (1, 2, 16, 17, 33, 64, 65)] == [
        1, 16, 16, 32, 64, 64, 0,
    ]  # fmt: skip
    large = replace(PRODUCT, n_tokens=0)
    with triton_choices.trying(large, OTHER):
        assert choice(large) == DEFAULT


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda raw: raw.update(kind="a poem"), 'no "kind"'),
    (lambda raw: raw.update(schema=2), "its schema is 2"),
    (lambda raw: raw.update(gpu="0" * 12), "its gpu is"),
    (lambda raw: raw.update(build="0" * 12), "its build is"),
    (lambda raw: raw.update(entries={}), 'a list "entries"'),
    (lambda raw: raw.update(made=[]), 'a list "entries"'),
    (lambda raw: raw["entries"][0].pop("tile"), "entry 0 needs exactly"),
    (lambda raw: raw["entries"][0].update(n_rows=0), "no positive numbers"),
    (lambda raw: raw["entries"][0].update(n_cols=True), "no positive numbers"),
    (lambda raw: raw["entries"][0].update(normed=1), "no truth value"),
    (lambda raw: raw["entries"][0].update(kernel=3), "no text"),
    (lambda raw: raw["entries"][0].update(tile=[1]), "no object of whole numbers"),
    (lambda raw: raw["entries"][0]["tile"].update(k=1.5), "no object of whole numbers"),
    (lambda raw: raw["entries"][0].update(ratio="fast"), "no number"),
    (lambda raw: raw["entries"].append(raw["entries"][0]), "two entries"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_damaged_table_is_not_used_and_says_why(
    spoil: Callable[[dict[str, Any]], object], reason: str
) -> None:
    path = triton_choices.save(table())
    raw = json.loads(path.read_text())
    spoil(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(TableError, match=reason):
        triton_choices.load(path)
    found, why = triton_choices.current()
    assert found is None and reason in why
    assert choice() == DEFAULT


def test_a_cut_table_and_no_room_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = triton_choices.save(table())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TableError, match="cut or no JSON"):
        triton_choices.load(path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KernelError, match="cannot be written"):
        triton_choices.save(table())


def test_a_driver_that_fails_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr("torch.cuda.get_device_properties", fail)
    monkeypatch.setattr(triton_choices.triton_device, "device", lambda: torch.device("cuda"))
    with pytest.raises(KernelError, match="the GPU's driver failed: CUDA unknown error"):
        triton_choices.machine.__wrapped__()


@pytest.mark.parametrize("flags", [["--threads", "2"], ["--any-bits"]])
def test_what_is_for_the_cpu_is_refused_on_the_gpu(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["tune", "--device", "cuda", *flags])
    assert end.value.code == 2 and f"{flags[0]} applies to the CPU only" in capsys.readouterr().err


# ---- the tuner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "bf16.gguf"
    return tiny.write_gguf(path, CONFIG, tiny.random_weights(CONFIG), "BF16")


class Timer:
    """50 us for what is `fast`, 100 for anything else; runs nothing."""

    def __init__(self, fast: Callable[[TiledProduct, Any], bool]) -> None:
        self.fast = fast

    def __call__(self, replay: Any) -> float:
        cells = dict(zip(replay.__code__.co_freevars, replay.__closure__, strict=True))
        product, tile = cells["subject"].cell_contents.product, cells["tile"].cell_contents
        return 50.0 if self.fast(product, tile) else 100.0


def test_the_fastest_tile_of_each_product_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_choices, "TOKENS", (1, 2))
    monkeypatch.setattr(triton_tuning, "N_ROUNDS", 2)
    model = load(path, device="cuda", max_seqs=2, max_batch_tokens=2, max_logits=2, n_blocks=2)
    program: Any = model.program()
    subjects = triton_tuning.subjects(program)
    kernels = {(p.kernel, p.n_rows, p.n_tokens, p.normed) for p in subjects}
    for n_tokens, normed in ((1, True), (2, False)):
        assert ("gated", CONFIG.d_ff, n_tokens, normed) in kernels
        assert ("values", CONFIG.vocab_size, n_tokens, normed) in kernels
    assert ("values", CONFIG.d_model, 1, False) in kernels  # adds to x
    assert all(subject.n_tokens == product.n_tokens for product, subject in subjects.items())
    clock, shown = Timer(lambda product, tile: tile.rows == 32), []
    outcomes = list(triton_tuning.tune(program, shown.append, clock))
    assert {outcome.product for outcome in outcomes} == set(subjects)
    assert shown[-1] == 100 and shown == sorted(shown)
    for outcome in outcomes:
        rows = outcome.tiles[outcome.chosen].rows
        assert rows == 32 or all(tile.rows != 32 for tile in outcome.tiles)
    found = triton_tuning.table_of(outcomes, {"model": "mine"})
    assert found.tiles and set(found.ratios.values()) == {0.5}
    kept = triton_tuning.table_of(outcomes[:1], {})
    assert len(kept.tiles) <= 1


def test_other_bits_are_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter the depth of a stage changes bits: such a tile may be as fast as it
    likes."""
    monkeypatch.setattr(triton_choices, "TOKENS", (1,))
    monkeypatch.setattr(triton_tuning, "N_ROUNDS", 1)
    monkeypatch.setattr(
        "pyroclast_kernels.matmul.triton.values.other_tiles",
        lambda tile, *_: [replace(tile, k=16), replace(tile, n_stages=2)],
    )
    model = load(path, device="cuda", max_seqs=2, max_batch_tokens=2, max_logits=2, n_blocks=2)
    program: Any = model.program()
    outcomes = list(triton_tuning.tune(program, lambda _: None, Timer(lambda _, t: t.k == 16)))
    assert len(outcomes) == 4  # what adds to x has one shape
    assert any(outcome.ratios[1] != outcome.ratios[1] for outcome in outcomes)  # NaN
    for outcome in outcomes:
        assert outcome.ratios[2] == 1 and outcome.ratios[0] == 1
        assert outcome.chosen == (0 if outcome.ratios[1] != outcome.ratios[1] else 1)


def test_a_gain_within_the_noise_changes_nothing() -> None:
    outcome = triton_tuning.TileChoice(PRODUCT, [DEFAULT, OTHER], (1.0, 0.98), 10.0)
    assert outcome.chosen == 0
    assert replace(outcome, ratios=(1.0, 0.96)).chosen == 1
    assert replace(outcome, ratios=(1.0, float("nan"))).chosen == 0


def test_tune_on_the_command_line_and_a_model_under_its_table(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(triton_choices, "TOKENS", (1,))
    monkeypatch.setattr(triton_tuning, "N_ROUNDS", 1)
    monkeypatch.setattr(triton_tuning, "_device_us", Timer(lambda _, tile: tile.n_stages == 2))
    with pytest.raises(SystemExit) as end:
        cli.main(["tune", "-m", str(path), "--device", "cuda", "--dry-run"])
    assert end.value.code == 0 and not triton_choices.path().exists()
    shown = capsys.readouterr().out
    assert "gated of a norm | bf16 | 64x64 | 1 | " in shown and "not written" in shown
    with pytest.raises(SystemExit) as end:
        cli.main(["tune", "-m", str(path), "--device", "cuda", "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(triton_choices.path()) and found["gpu"]
    changed = [row for row in found["choices"] if row["changed"]]
    assert changed and all(row["tile"]["n_stages"] == 2 for row in changed)
    assert all(row["ratio"] == 0.5 for row in changed)
    options: dict[str, Any] = {"max_seqs": 2, "max_batch_tokens": 4, "n_blocks": 4}
    assert Selection("", on_gpu=True).table == found["table"]
    assert Selection("frozen", on_gpu=True).table == "defaults"
    texts = []
    for rules, name in (("frozen", "defaults"), ("", found["table"])):
        with LLM(path, device="cuda", kernels=rules, **options) as llm:
            assert llm.table == name
            assert llm.model.program()._tuned is (not rules)  # type: ignore[attr-defined]
            texts.append(llm.generate([[1, 2, 3]], GREEDY)[0].token_ids)
    assert texts[0] == texts[1]
