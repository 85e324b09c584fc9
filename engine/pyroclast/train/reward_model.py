"""The recipe `reward`: a model that gives the preferred answer of a pair the larger number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.train.base_model import context_of, loaded
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine
from pyroclast.train.pair_tokens import reward_row
from pyroclast.train.preference_settings import RewardSettings
from pyroclast.train.prompts import identity_of, read_pairs, split_rows
from pyroclast.train.result import Result, read_result, write_result
from pyroclast.train.rewards import reward_model
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.template_check import check_template
from pyroclast.train.trl_run import (
    arguments,
    base_folder,
    load_tokenizer,
    quiet_libraries,
    save_final,
    train,
)

_KEPT = ("accuracy", "margin", "learning_rate")


def reward(
    model: str | Path,
    pairs: str | Path,
    out: str | Path,
    settings: RewardSettings | None = None,
    *,
    on_line: OnLine | None = None,
) -> Result:
    """Trains a reward model, from a language model, on the rows {"prompt", "chosen", "rejected"} of
    a JSONL file; `rl` takes its folder.

    The figure is of held-out pairs: `accuracy`, the share whose chosen answer gets the larger
    number.  Before training the last layer is random.  The same call resumes a run that was
    stopped.  on_line gets each line of the log."""
    settings = RewardSettings() if settings is None else settings
    rows = read_pairs(pairs)
    learned, held = split_rows(rows, settings.held_out, pairs)
    identity = {"model": str(model), "pairs": identity_of(rows)}
    with RunFolder(out, "reward", settings.as_dict() | identity) as folder:
        if (done := read_result(folder.path)) is not None:
            return done
        with quiet_libraries():
            base = base_folder(model, folder)
            limit = min(settings.max_tokens, context_of(base))
            tokenizer = load_tokenizer(base)
            check_template([row["prompt"] for row in rows], tokenizer, pairs)
            encoded = [reward_row(tokenizer, limit, pairs, i, row) for i, row in enumerate(rows, 1)]
            _start(base, settings, folder)
            before = _accuracy(folder.path / "start", held, limit)
            about = _learn(encoded[: len(learned)], settings, limit, folder, on_line)
            after = _accuracy(folder.final, held, limit)
        found = Result(str(folder.final), {"accuracy": before}, {"accuracy": after}, about)
        write_result(folder.path, found)
        return found


def _start(model: Path, settings: RewardSettings, folder: RunFolder) -> None:
    """Writes the model with one number, from a random layer, in place of its logits."""
    if (folder.path / "start").is_dir():
        return
    tokenizer = load_tokenizer(model)
    needed("torch").manual_seed(settings.seed)
    made = loaded("AutoModelForSequenceClassification", model, num_labels=1)
    made.config.pad_token_id = tokenizer.pad_token_id
    with folder.writing("start") as part:
        made.save_pretrained(part)
        tokenizer.save_pretrained(part)


def _learn(
    pairs: Sequence[dict[str, list[int]]],
    settings: RewardSettings,
    max_length: int,
    folder: RunFolder,
    on_line: OnLine | None,
) -> dict[str, Any]:
    trl, datasets = needed("trl"), needed("datasets")
    tokenizer = load_tokenizer(folder.path / "start")
    model = loaded("AutoModelForSequenceClassification", folder.path / "start")
    config = trl.RewardConfig(**arguments(settings, folder), max_length=max_length)
    trainer = trl.RewardTrainer(
        model,
        args=config,
        train_dataset=datasets.Dataset.from_list(list(pairs)),
        processing_class=tokenizer,
    )
    train(trainer, settings, folder, on_line, kept=_KEPT)
    return save_final(trainer.model, tokenizer, folder)


def _accuracy(folder: Path, pairs: Sequence[dict[str, Any]], max_tokens: int) -> float:
    score = reward_model(folder, max_tokens)
    prompts = [row["prompt"] for row in pairs]
    chosen, rejected = (
        score(prompts=prompts, completions=[row[side] for row in pairs])
        for side in ("chosen", "rejected")
    )
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
