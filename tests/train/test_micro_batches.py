"""Micro-batches: a batch that is read in parts gives the same losses and gradients, in no pass more
rows than asked for, and a resumed run the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from pyroclast.train import (
    FinetuneSettings,
    PreferSettings,
    Result,
    RewardSettings,
    RlSettings,
)
from pyroclast.train.log import read_lines

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("trl", reason="trl is not installed: pip install '.[train]'")
descent = pytest.importorskip("pyroclast.train.descent")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's, peft's and transformers' own
]
CONFIG = replace(tiny.BASE, tie_embeddings=True, n_layers=1)
WORDS = ("a", "bcd", "efghij", "kl", "mnop", "q", "rstuvwx", "yz", "-")  # of different lengths
# Sums in another order, of a few hundred terms in float32, and steps of AdamW between them.
CLOSE = 1e-3
RL = RlSettings(
    steps=2, batch=4, group=2, max_tokens=6, learning_rate=1e-3, held_out=0.25, samples=1,
    warmup=0.0, save_every=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    return tiny.write_folder(folder, CONFIG, tiny.random_weights(CONFIG, 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every recipe's file, by its name."""
    folder = tmp_path_factory.mktemp("data")
    rows: dict[str, list[dict[str, str]]] = {
        "finetune": [{"prompt": word, "completion": word[::-1] + "!"} for word in WORDS],
        "pairs": [{"prompt": word, "chosen": word, "rejected": "no " + word} for word in WORDS],
        "prompts": [{"prompt": word} for word in WORDS],
    }
    for name, each in rows.items():
        lines = [json.dumps(row) + "\n" for row in each]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def lengths(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


Run = Callable[[Path, Path, Path, int, Any], Result]


def run_finetune(model: Path, data: Path, out: Path, size: int, on_line: Any = None) -> Result:
    from pyroclast.train import finetune

    settings = FinetuneSettings(
        steps=2, batch=4, precision="float32", rank=2, held_out=0.0, save_every=1, micro_batch=size
    )
    return finetune(model, data / "finetune.jsonl", out, settings, on_line=on_line)


def run_prefer(model: Path, data: Path, out: Path, size: int, on_line: Any = None) -> Result:
    from pyroclast.train import prefer

    settings = PreferSettings(steps=2, batch=4, rank=2, save_every=1, micro_batch=size)
    return prefer(model, data / "pairs.jsonl", out, settings, on_line=on_line)


def run_reward(model: Path, data: Path, out: Path, size: int, on_line: Any = None) -> Result:
    from pyroclast.train import reward

    settings = RewardSettings(steps=2, batch=4, save_every=1, micro_batch=size)
    return reward(model, data / "pairs.jsonl", out, settings, on_line=on_line)


def run_grpo(model: Path, data: Path, out: Path, size: int, on_line: Any = None) -> Result:
    from pyroclast.train import rl

    settings = replace(RL, micro_batch=size)
    return rl(
        model, data / "prompts.jsonl", out, reward=lengths, settings=settings, on_line=on_line
    )


def run_ppo(model: Path, data: Path, out: Path, size: int, on_line: Any = None) -> Result:
    from pyroclast.train import rl

    settings = replace(RL, algorithm="ppo", minibatches=1, micro_batch=size)
    return rl(
        model, data / "prompts.jsonl", out, reward=lengths, settings=settings, on_line=on_line
    )


@pytest.fixture
def rows_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each pass of a llama in torch."""
    from transformers import LlamaModel

    forward, found = LlamaModel.forward, list[int]()

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        found.append(len(options["input_ids"] if "input_ids" in options else args[0]))
        return forward(self, *args, **options)

    monkeypatch.setattr(LlamaModel, "forward", watched)
    return found


@pytest.mark.parametrize(
    ("run", "rows_of_one"),
    [(run_finetune, 1), (run_prefer, 2), (run_reward, 2), (run_grpo, 1), (run_ppo, 1)],
)  # fmt: skip
def test_the_parts_of_a_batch_add_up_to_it(
    run: Run, rows_of_one: int, model: Path, data: Path, tmp_path: Path, rows_of_a_pass: list[int]
) -> None:
    """A pair is two rows."""
    lines: list[dict[str, Any]] = []

    def stop(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["step"] == 2:
            raise KeyboardInterrupt

    run(model, data, tmp_path / "whole", 8)
    assert max(rows_of_a_pass) >= 4 * rows_of_one
    rows_of_a_pass.clear()
    with pytest.raises(KeyboardInterrupt):
        run(model, data, tmp_path / "parts", 2, stop)
    run(model, data, tmp_path / "parts", 2, lines.append)
    assert max(rows_of_a_pass) == 2 * rows_of_one
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert all(lines[1][name] == lines[2][name] for name in ("loss", "gradient_norm"))
    whole, parts = (read_lines(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    for one, two in zip(whole, parts, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=CLOSE, abs=1e-5)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=CLOSE, abs=1e-5)
        assert one["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("n", "size", "found"),
    [(4, 4, [4]), (4, 9, [4]), (5, 4, [2, 3]), (7, 3, [2, 2, 3]), (3, 1, [1, 1, 1])],
)
def test_parts_are_even_and_no_larger_than_asked_for(n: int, size: int, found: list[int]) -> None:
    parts = descent.micro_batches(n, size)
    assert [part.stop - part.start for part in parts] == found
    assert [i for part in parts for i in range(n)[part]] == list(range(n))


@pytest.mark.parametrize(("batch", "size", "n_rows"), [(8, 8, 8), (8, 3, 2), (7, 3, 1), (2, 8, 2)])
def test_trl_takes_the_largest_divisor(batch: int, size: int, n_rows: int) -> None:
    from pyroclast.train import trl_run

    assert trl_run._micro_batch(PreferSettings(batch=batch, micro_batch=size)) == n_rows
