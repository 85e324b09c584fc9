"""GRPO (Shao et al. 2024) by trl, with rollouts by Pyroclast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.prompts import Prompt
from pyroclast.train.rewards import Reward
from pyroclast.train.rl_engines import as_logged, load_policy, open_rollouts
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.trl_run import arguments, save_final, train

_KEPT = (
    "reward",
    "reward_std",
    "kl",
    "entropy",
    "completions/mean_length",
    "learning_rate",
    "clip_ratio/region_mean",
)


def learn_by_grpo(
    model: Path,
    prompts: Sequence[Prompt],
    score: Reward,
    settings: RlSettings,
    folder: RunFolder,
    on_line: OnLine | None,
) -> dict[str, Any]:
    """Runs trl's trainer; gives the facts of the run."""
    trl, datasets = needed("trl"), needed("datasets")
    policy, tokenizer = load_policy(model, settings)
    config = trl.GRPOConfig(
        **arguments(settings, folder),
        num_generations=settings.group,
        max_completion_length=settings.max_tokens,
        beta=settings.beta,
        temperature=1.0,
    )
    checks: list[dict[str, float]] = []
    with ExitStack() as engines:
        rollouts = open_rollouts(model, policy, settings, folder, engines, checks)
        trainer = trl.GRPOTrainer(
            policy,
            reward_funcs=[score],
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": each} for each in prompts]),
            processing_class=tokenizer,
            rollout_func=rollouts,
        )

        train(trainer, settings, folder, on_line, kept=_KEPT, more=lambda: as_logged(checks[-1]))
    return save_final(trainer.model, tokenizer, folder)
