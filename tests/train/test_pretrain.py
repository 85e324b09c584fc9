"""Pre-training at 30,000 parameters: what it writes, resuming bit for bit, and what stops it."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM
from pyroclast.errors import TrainingError
from pyroclast.train import (
    PretrainSettings,
    Result,
    TokenizerSettings,
    pretrain,
    pretraining,
    tokenizer,
)
from pyroclast.train.log import read_lines

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's and transformers' own
]
SETTINGS = PretrainSettings(
    steps=30,
    batch=4,
    layers=1,
    width=32,
    heads=2,
    context=32,
    vocab_size=280,
    save_every=10,
    precision="float32",
)
VERSES = "".join(
    f"{n} green bottles hanging on the wall, and if one green bottle should fall\n"
    for n in ("ninety", "eighty", "seventy", "sixty", "fifty", "forty", "thirty", "twenty", "ten")
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads only wait for each other at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    path.write_text(VERSES)
    return path


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, pretrain([text], out, SETTINGS)


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_lines(out / "log.jsonl")]


def weights(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


def stop_at(step: int, error: BaseException) -> Callable[[dict[str, Any]], None]:
    def on_line(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise error

    return on_line


def test_a_run_lowers_the_perplexity_of_what_it_did_not_see(whole: tuple[Path, Result]) -> None:
    out, result = whole
    assert result.after["perplexity"] < result.before["perplexity"] / 3
    assert result.before["perplexity"] == pytest.approx(280, rel=0.2)
    samples = read_lines(out / "samples.jsonl")
    assert [line["step"] for line in samples] == [0, 30]
    assert samples[0]["text"][:8] == samples[1]["text"][:8]  # the prompt
    assert samples[0]["text"] != samples[1]["text"]
    log = read_lines(out / "log.jsonl")
    assert [line["step"] for line in log] == list(range(1, 31))
    assert {"loss", "tokens_per_s", "learning_rate", "gradient_norm"} <= set(log[0])
    assert (out / "curve.svg").read_text().count("<svg") == 1
    assert json.loads((out / "result.json").read_text()) == result.as_dict()


def test_the_final_folder_is_what_was_trained(whole: tuple[Path, Result]) -> None:
    _, result = whole
    model = transformers.AutoModelForCausalLM.from_pretrained(result.final, dtype=torch.float32)
    ids = list(range(1, 30))
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    with LLM(result.final, compute="float32") as llm:
        np.testing.assert_allclose(llm.logits(ids), want, atol=1e-4 * np.abs(want).max())
    assert model.num_parameters() == result.about["parameters"]


def test_a_stopped_run_resumes_bit_for_bit(
    text: Path, tmp_path: Path, whole: tuple[Path, Result]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain([text], out, SETTINGS, on_line=stop_at(17, KeyboardInterrupt()))
    assert (out / "step-10").is_dir() and not (out / "final").exists()
    seen: list[int] = []
    result = pretrain([text], out, SETTINGS, on_line=lambda line: seen.append(line["step"]))
    assert seen == list(range(11, 31))
    assert weights(out) == weights(whole[0])
    assert losses(out) == losses(whole[0])
    assert result.after == whole[1].after
    assert pretrain([text], out, SETTINGS, on_line=stop_at(0, AssertionError())) == result


def test_a_run_that_was_stopped_while_it_was_measured(
    text: Path, tmp_path: Path, whole: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(pretraining, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain([text], out, SETTINGS)
    monkeypatch.undo()
    assert (out / "step-0").is_dir() and not (out / "samples.jsonl").exists()
    result = pretrain([text], out, SETTINGS)
    assert (result.before, result.after) == (whole[1].before, whole[1].after)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_leaves_the_last_checkpoint(
    text: Path, tmp_path: Path, whole: tuple[Path, Result]
) -> None:
    """A limit on the size of files stands in: the state of the optimizer no longer fits."""
    out, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_line(line: dict[str, Any]) -> None:
        if line["step"] == 15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))

    try:
        with pytest.raises(TrainingError, match=r"step-20: cannot be written: .*step-10 is whole"):
            pretrain([text], out, SETTINGS, on_line=on_line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.glob(".*"))
    pretrain([text], out, SETTINGS)
    assert weights(out) == weights(whole[0])


@pytest.mark.parametrize(
    ("poison", "words"),
    [("weights", "the loss of step 2 is nan"), ("gradient", "the gradient of step 1 is nan")],
)
def test_a_run_that_diverges_ends(text: Path, tmp_path: Path, poison: str, words: str) -> None:
    real = torch.optim.AdamW.step

    def step(self: Any, *arguments: Any) -> Any:
        real(self, *arguments)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(float("inf"))

    def norm(weights: list[Any], clip: float) -> Any:
        return weights[0].grad.sum() * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        if poison == "weights":
            patch.setattr(torch.optim.AdamW, "step", step)
        else:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", norm)
        with pytest.raises(TrainingError, match=f"{words}: .*lower learning_rate .now 0.003"):
            pretrain([text], tmp_path / "run", SETTINGS)
    assert (tmp_path / "run" / "step-0").is_dir()


def test_texts_that_are_too_small_are_refused(tmp_path: Path) -> None:
    for name, content, words in (
        ("empty.txt", " \n", "holds no text"),
        ("tiny.txt", "one two three four five six", "give more text or a smaller context"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(TrainingError, match=words):
            pretrain([tmp_path / name], tmp_path / f"run-{name}", SETTINGS)
    (tmp_path / "short.txt").write_text(VERSES.replace("\n", " "))
    settings = replace(SETTINGS, held_out=0.01)
    with pytest.raises(TrainingError, match=r"held_out 0.01 leaves too little text to measure"):
        pretrain([tmp_path / "short.txt"], tmp_path / "run-short", settings)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="cannot be read: 'utf-8'"):
        pretrain([tmp_path / "bytes.txt"], tmp_path / "run", SETTINGS)
    with pytest.raises(TrainingError, match="no such file"):
        pretrain([tmp_path / "none.txt"], tmp_path / "run", SETTINGS)


def test_other_data_and_settings_are_other_runs(
    text: Path, tmp_path: Path, whole: tuple[Path, Result]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    with pytest.raises(TrainingError, match="holds a run with seed 0, not 1"):
        pretrain([text], out, replace(SETTINGS, seed=1))
    (tmp_path / "other.txt").write_text(VERSES.upper())
    with pytest.raises(TrainingError, match="holds a run with texts"):
        pretrain([tmp_path / "other.txt"], out, SETTINGS)


def test_gpt2_with_a_tokenizer_of_its_own(text: Path, tmp_path: Path) -> None:
    vocabulary = tokenizer([text], tmp_path / "vocabulary", TokenizerSettings(vocab_size=270))
    again = tokenizer([text], tmp_path / "again", TokenizerSettings(vocab_size=270))
    assert (vocabulary / "tokenizer.json").read_text() == (again / "tokenizer.json").read_text()
    settings = replace(SETTINGS, shape="gpt2", steps=1, dropout=0.1)
    result = pretrain([text], tmp_path / "run", settings, tokenizer=vocabulary)
    with LLM(result.final) as llm:
        assert llm.vocab_size == 270
        assert llm.tokenizer.decode(llm.tokenizer.encode("Zürich\n")) == "Zürich\n"
    changed = replace(settings, dropout=0.5)
    other = pretrain([text], tmp_path / "other", changed, tokenizer=vocabulary)
    assert losses(tmp_path / "run") != losses(tmp_path / "other")
    assert other.before == result.before  # weights come from the seed alone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 30, "heads": 4}, "width must be an even multiple of heads, .*: try 32"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"shape": "rnn"}, "shape must be llama or gpt2, got 'rnn'"),
        ({"learning_rate": float("nan")}, "learning_rate must be between 0 and 10, got nan"),
        ({"batch": 1.5}, "batch must be a whole number, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(
    text: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrainingError, match=words):
        pretrain([text], tmp_path / "run", replace(SETTINGS, **change))
