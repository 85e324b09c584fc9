"""The recipe `finetune`: a model learns from examples, in its own weights or in a LoRA adapter.

The loss counts the tokens of answers only.  Pyroclast answers the examples held out, before and
after, and counts those that are exactly right.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.errors import TrainingError
from pyroclast.train.base_model import open_base
from pyroclast.train.curve import draw
from pyroclast.train.descent import indices
from pyroclast.train.examples import (
    NO_LOSS,
    Example,
    check_context,
    encode,
    example_of,
    longest_answer,
    read_examples,
)
from pyroclast.train.extra import needed
from pyroclast.train.log import RunLog, read_lines
from pyroclast.train.loop import Loop
from pyroclast.train.measure import load, measure
from pyroclast.train.result import Result, read_result, speed_of, write_result
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.settings import FinetuneSettings
from pyroclast.train.shapes import n_parameters, save_model
from pyroclast.train.task import examples as default_examples
from pyroclast.train.texts import fingerprint

_SPARE_TOKENS = 8  # an answer may be a little longer than any that is right


def finetune(
    model: str | Path,
    data: str | Path | None,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    on_line: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Trains a model on the examples of a JSONL file; the run's folder is `out`.

    data None: a task of 480 sentences to write as JSON.  Result.final is what `LLM` loads: a model
    folder (method "full"), or an adapter for the same model ("lora").  The same call resumes a run
    that was stopped.  on_line gets each line of the log."""
    settings = FinetuneSettings() if settings is None else settings
    read = _default() if data is None else read_examples(data)
    train, held = _split(read, settings)
    identity = {"model": str(model), "data": fingerprint([repr(each) for each in read])}
    with RunFolder(out, "finetune", settings.as_dict() | identity) as folder:
        done = read_result(folder.path)
        return done or _Run(model, settings, folder, train, held).result(on_line)


class _Run:
    """The parts of one run that its callbacks share."""

    def __init__(
        self,
        model: str | Path,
        settings: FinetuneSettings,
        folder: RunFolder,
        train: list[Example],
        held: list[Example],
    ) -> None:
        from pyroclast.checkpoint.open import open_tokenizer

        self.base, self.settings, self.folder = model, settings, folder
        tokenizer, _ = open_tokenizer(model)
        self.train = [encode(tokenizer, each, settings.max_tokens) for each in train]
        held_out = [encode(tokenizer, each, settings.max_tokens) for each in held]
        self.answer_tokens = longest_answer([*self.train, *held_out]) + _SPARE_TOKENS
        self.items = [each.item() for each in held]
        self.model, self.files = open_base(model, folder.path)
        context = getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize
        check_context(self.train, train, 0, context)
        check_context(held_out, held, self.answer_tokens, context)
        if settings.method == "lora":
            self.model = _with_adapter(self.model, settings, str(model))

    def result(self, on_line: Callable[[dict[str, Any]], None] | None) -> Result:
        loop = Loop(
            model=self.model,
            settings=self.settings,
            folder=self.folder,
            batch_of=self.batch,
            save=self.save,
            after=self.after,
        )
        loop.run(on_line)
        with self.folder.writing("final") as part:
            self.save(part)
        samples, lines = (
            read_lines(self.folder.path / name) for name in ("samples.jsonl", "log.jsonl")
        )
        draw(self.folder.path / "curve.svg", lines, samples)
        names = ("exact_match",) if self.items else ()
        before, after = ({name: line[name] for name in names} for line in (samples[0], samples[-1]))
        about = {
            "parameters": n_parameters(self.model),
            "examples": len(self.train),
            "held_out": len(self.items),
            "precision": loop.precision,
            **speed_of(lines),
        }
        found = Result(str(self.folder.final), before, after, about)
        write_result(self.folder.path, found)
        return found

    def batch(self, step: int) -> dict[str, Any]:
        """The examples of a step, each epoch in another order; filled up at the end, which no token
        before it sees.  Logits are computed from the first answer on."""
        torch = needed("torch")
        settings = self.settings
        chosen = indices(len(self.train), settings.batch, settings.seed, step)
        rows = [self.train[i] for i in chosen]
        length = max(len(row.ids) for row in rows) - 1
        ids = np.zeros((len(rows), length), np.int64)
        labels = np.full((len(rows), length), NO_LOSS, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids) - 1] = row.ids[:-1]
            labels[i, : len(row.ids) - 1] = row.labels[1:]
        first = int((labels != NO_LOSS).any(axis=0).argmax())
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels[:, first:].copy()),
            "logits_to_keep": length - first,
        }

    def save(self, folder: Path) -> None:
        if self.settings.method == "full":
            save_model(self.model, self.files, folder)
        else:
            self.model.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # peft's, an empty form

    def after(self, step: int, checkpoint: Path, log: RunLog) -> None:
        """Has Pyroclast answer what was held out."""
        if not self.items:
            log.sample(step, "")
            return
        is_lora = self.settings.method == "lora"
        model, adapter = (self.base, checkpoint) if is_lora else (checkpoint, None)
        with load(model, adapter) as llm:
            found, results = measure(llm, self.items, self.answer_tokens)
        log.sample(step, results[0].text or "", **found)


def _default() -> list[Example]:
    return [example_of(value, f"example {i}") for i, value in enumerate(default_examples())]


def _split(read: list[Example], settings: FinetuneSettings) -> tuple[list[Example], list[Example]]:
    """(examples to train on, examples held out), drawn by the seed."""
    n_held = round(len(read) * settings.held_out)
    if len(read) - n_held < 1:
        raise TrainingError(
            f"{len(read)} examples leave none to train on with held_out {settings.held_out:g}; "
            "give more examples or a smaller held_out"
        )
    order = np.random.default_rng([settings.seed]).permutation(len(read))
    return [read[i] for i in sorted(order[n_held:])], [read[i] for i in order[:n_held]]


def _with_adapter(model: Any, settings: FinetuneSettings, name: str) -> Any:
    """The model with its weights held and a new adapter on every matrix of its layers."""
    torch, peft = needed("torch"), needed("peft")
    torch.manual_seed(settings.seed)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model.name_or_path = name  # what the adapter's file says of its model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        return peft.get_peft_model(model, config)
