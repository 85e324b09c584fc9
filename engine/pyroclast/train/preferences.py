"""The recipe `prefer`: DPO (Rafailov et al. 2023) by trl, from pairs of which one was preferred."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroclast.llm import LLM
from pyroclast.train.base_model import context_of
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine
from pyroclast.train.on_policy import engine_logprobs
from pyroclast.train.pair_tokens import Encoded, PairTokens
from pyroclast.train.preference_settings import PreferSettings
from pyroclast.train.prompts import identity_of, read_pairs, split_rows
from pyroclast.train.result import Result, read_result, write_result
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.template_check import check_template
from pyroclast.train.trl_run import (
    arguments,
    base_folder,
    load_tokenizer,
    load_trained,
    lora,
    quiet_libraries,
    save_final,
    train,
)

_KEPT = ("rewards/margins", "rewards/accuracies", "learning_rate")
_ADAPTER = "preferred"


def prefer(
    model: str | Path,
    pairs: str | Path,
    out: str | Path,
    settings: PreferSettings | None = None,
    *,
    on_line: OnLine | None = None,
) -> Result:
    """Trains a model on the rows {"prompt", "chosen", "rejected"} of a JSONL file, such as `rate`
    exports.

    The figures are of held-out pairs, by Pyroclast: `accuracy`, the share whose chosen answer is
    more likely than the rejected one, and `margin`, the mean difference of their log-probabilities.
    The same call resumes a run that was stopped.  on_line gets each line of the log."""
    settings = PreferSettings() if settings is None else settings
    rows = read_pairs(pairs)
    learned, _ = split_rows(rows, settings.held_out, pairs)
    identity = {"model": str(model), "pairs": identity_of(rows)}
    with RunFolder(out, "prefer", settings.as_dict() | identity) as folder:
        if (done := read_result(folder.path)) is not None:
            return done
        with quiet_libraries():
            base = base_folder(model, folder)
            limit = _limit(base, settings)
            tokenizer = load_tokenizer(base)
            check_template([row["prompt"] for row in rows], tokenizer, pairs)
            tokens = PairTokens(tokenizer, limit, pairs)
            encoded = [tokens.of(i, row) for i, row in enumerate(rows, 1)]  # refused now, or never
            about = _learn(base, learned, settings, limit, folder, on_line)
            before, after = _measured(base, encoded[len(learned) :], settings, folder)
        found = Result(str(folder.final), before, after, about)
        write_result(folder.path, found)
        return found


def _limit(model: Path, settings: PreferSettings) -> int:
    """The tokens of a prompt and its answer that are read."""
    return min(settings.max_tokens, context_of(model))


def _learn(
    model: Path,
    pairs: Sequence[dict[str, Any]],
    settings: PreferSettings,
    max_length: int,
    folder: RunFolder,
    on_line: OnLine | None,
) -> dict[str, Any]:
    trl, datasets = needed("trl"), needed("datasets")
    policy, tokenizer = load_trained(model)
    config = trl.DPOConfig(**arguments(settings, folder), beta=settings.beta, max_length=max_length)
    trainer = trl.DPOTrainer(
        policy,
        args=config,
        train_dataset=datasets.Dataset.from_list(list(pairs)),
        processing_class=tokenizer,
        peft_config=lora(settings.method, settings.rank, model),
    )
    train(trainer, settings, folder, on_line, kept=_KEPT)
    return save_final(trainer.model, tokenizer, folder)


def _measured(
    model: Path, held: Sequence[Encoded], settings: PreferSettings, folder: RunFolder
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of held-out pairs before and after."""
    is_adapter = settings.method == "lora"
    adapters = {_ADAPTER: folder.final} if is_adapter else {}
    with ExitStack() as stack:
        start = stack.enter_context(LLM(model, compute="float32", device="cpu", adapters=adapters))
        before = _figures(start, held, None)
        end = start
        if not is_adapter:
            end = stack.enter_context(LLM(folder.final, compute="float32", device="cpu"))
        after = _figures(end, held, _ADAPTER if is_adapter else None)
    return before, after


def _figures(llm: LLM, pairs: Sequence[Encoded], adapter: str | None) -> dict[str, float]:
    prompts = [pair.prompt for pair in pairs]
    chosen, rejected = (
        [sum(row) for row in engine_logprobs(llm, prompts, answers, adapter)]
        for answers in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    n = len(margins)
    return {"accuracy": sum(each > 0 for each in margins) / n, "margin": sum(margins) / n}
