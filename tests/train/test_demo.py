"""The demonstration, as `make train-demo` and bench/training.py run it, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny
from pyroclast.errors import TrainingError
from pyroclast.train import FinetuneSettings, PreferSettings, PretrainSettings
from pyroclast.train.scripted_rater import plainness, rated_pairs
from training_chats import TEMPLATE

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("trl", reason="trl is not installed: pip install '.[train]'")
demo = pytest.importorskip("pyroclast.train.demo")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's, peft's and transformers' own
]
SMALL = PretrainSettings(
    batch=2, layers=1, width=32, heads=2, context=64, vocab_size=280, precision="float32"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def short(steps: int = 1) -> FinetuneSettings:
    return FinetuneSettings(steps=steps, precision="float32", batch=1, rank=2)


def test_every_recipe_shows_and_writes_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "PretrainSettings", lambda: SMALL)
    monkeypatch.setattr(demo, "FinetuneSettings", short)
    monkeypatch.setattr(demo, "PREFER", PreferSettings(steps=2, batch=2, rank=2, held_out=0.2))
    monkeypatch.setattr(demo, "_N_PAIRS", 10)
    examples = demo.default_task
    monkeypatch.setattr(demo, "default_task", lambda: examples()[:6])
    config = replace(tiny.BASE, n_layers=1, max_seq_len=512)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    out, result = tmp_path / "out", tmp_path / "training.json"
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the hat\n" * 20)
    words = ["--minutes", "0.001", "--model", str(model), "--finetune-steps", "2"]
    words += ["--text", str(text)]
    demo.main("", [*words, "--out", str(out), "--json", str(result)])
    shown = capsys.readouterr().out
    assert shown.count("|   before |") + shown.count("| before |") == 3
    found = json.loads(result.read_text())
    assert found["texts"] == ["text.txt"]
    first, second, third = found["rows"]
    assert [row["recipe"] for row in found["rows"]] == ["pretrain", "finetune", "prefer"]
    assert set(first["before"]) == set(first["after"]) == {"perplexity", "bits_per_byte"}
    assert second["before"]["exact_match"] == 0.0
    assert second["settings"]["steps"] == 2 and len(second["curve"]) == 2
    assert third["after"]["margin"] != third["before"]["margin"]
    assert 0 <= third["before"]["reward"] <= 1 and third["after"]["reward"] > 0
    assert [sample["step"] for sample in third["texts"]] == [0, 2]
    assert third["start"]["step"] >= 1  # as many as the machine takes in the time
    assert third["start"]["perplexity"] == first["after"]["perplexity"]
    again, more = tmp_path / "again", ["--prefer", str(out / "pretrain")]
    demo.main("", [*words, *more, "--out", str(again), "--json", str(result)])
    [row] = json.loads(result.read_text())["rows"]
    for name in ("before", "after", "texts", "curve"):
        assert row[name] == third[name], "the same pairs, settings and seed"
    with pytest.raises(TrainingError, match="no pre-training that is finished"):
        demo.main("", [*words, "--prefer", str(tmp_path), "--out", str(again)])
    assert (out / "pretrain" / "final" / "model.safetensors").exists()
    assert (out / "finetune" / "final" / "adapter_model.safetensors").exists()


def test_the_standard_text_comes_with_python(tmp_path: Path) -> None:
    text = demo.standard_text(tmp_path).read_text()
    assert len(text) > 300_000
    assert text == demo.standard_text(tmp_path).read_text()


def test_more_minutes_are_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(about={"tokens_per_s": 640.0})
    monkeypatch.setattr(demo, "pretrain", lambda *_: run)
    assert demo.steps_for(1, [tmp_path], SMALL) == 300
    assert demo.steps_for(0.5, [tmp_path], SMALL) == 150
    assert demo.steps_for(0, [tmp_path], SMALL) == 1


def test_the_rater_likes_plain_text(tmp_path: Path) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=512)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the hat\n" * 20)
    pairs = rated_pairs(model, [text], 8)
    assert pairs and pairs == rated_pairs(model, [text], 8)
    assert all(plainness(each["chosen"]) > plainness(each["rejected"]) for each in pairs)
    assert plainness("a b") == 1 and plainness("") == 0
