"""The recipe `rl`: GRPO or PPO, with rollouts by Pyroclast."""

from __future__ import annotations

from pathlib import Path

from pyroclast.errors import TrainingError
from pyroclast.train.base_model import context_of
from pyroclast.train.grpo import learn_by_grpo
from pyroclast.train.log import OnLine, read_lines
from pyroclast.train.ppo import learn_by_ppo
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.prompts import identity_of, read_prompts, split_rows
from pyroclast.train.result import Result, read_result, write_result
from pyroclast.train.rewards import Reward, as_reward
from pyroclast.train.rl_measure import measured
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.template_check import check_prompts
from pyroclast.train.trl_run import base_folder, load_tokenizer, quiet_libraries


def rl(
    model: str | Path,
    prompts: str | Path,
    out: str | Path,
    *,
    reward: str | Path | Reward,
    settings: RlSettings | None = None,
    on_line: OnLine | None = None,
) -> Result:
    """Trains a model for a reward: a function's name, a reward model's folder, or a callable that
    gives a number for each completion.

    The figures are of held-out prompts: the mean reward of sampled answers, and the KL divergence
    of the trained policy from the start on these, in nats per token.  The same call resumes a run
    that was stopped.  on_line gets each line of the log, the on-policy check among it."""
    settings = RlSettings() if settings is None else settings
    score, rows = as_reward(reward), read_prompts(prompts)
    learned, held = split_rows(rows, settings.held_out, prompts)
    _check_batch(settings, len(learned), prompts)
    identity = {
        "model": str(model),
        "prompts": identity_of(rows),
        "reward": str(reward) if isinstance(reward, str | Path) else score.__name__,
    }
    with RunFolder(out, "rl", settings.as_dict() | identity) as folder:
        if (done := read_result(folder.path)) is not None:
            return done
        with quiet_libraries():
            base = base_folder(model, folder)
            room = {"context": context_of(base), "max_tokens": settings.max_tokens}
            check_prompts(rows, load_tokenizer(base), prompts, **room)
            learn = learn_by_ppo if settings.algorithm == "ppo" else learn_by_grpo
            about = learn(base, learned, score, settings, folder, on_line)
            about["rollout_max_logprob_diff"] = max(
                line["rollout_max_logprob_diff"] for line in read_lines(folder.path / "log.jsonl")
            )
            before, after = measured(base, held, score, settings, folder)
        found = Result(str(folder.final), before, after, about)
        write_result(folder.path, found)
        return found


def _check_batch(settings: RlSettings, n_prompts: int, path: str | Path) -> None:
    """TrainingError for a batch that is no whole number of groups, or has more than there are."""
    n_groups = settings.batch // settings.group
    if n_groups * settings.group != settings.batch:
        raise TrainingError(
            f"batch must be a multiple of group, got {settings.batch} and {settings.group}"
        )
    if n_prompts < n_groups:
        raise TrainingError(
            f"{path}: prompts to train on: {n_prompts}, beside those held out, but a batch of "
            f"{settings.batch} in groups of {settings.group} takes {n_groups}; give more prompts, "
            "a smaller batch, or hold out fewer"
        )
