"""The recipe `rl`: GRPO (Shao et al. 2024) by trl, with rollouts by Pyroclast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pyroclast.errors import TrainingError
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine, read_lines
from pyroclast.train.on_policy import engine_logprobs, kl_estimate
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.prompts import Prompt, identity_of, read_prompts, split_rows
from pyroclast.train.result import Result, read_result, write_result
from pyroclast.train.rewards import Reward, as_reward
from pyroclast.train.rollouts import TOLERANCE, Rollouts
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.trl_run import (
    arguments,
    base_folder,
    check_template,
    load_tokenizer,
    load_trained,
    lora,
    quiet_libraries,
    save_final,
    train,
)

ADAPTER = "policy"
_KEPT = ("reward", "reward_std", "kl", "entropy", "completions/mean_length", "learning_rate")


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
            check_template(rows, load_tokenizer(base), prompts)
            about = _learn(base, learned, score, settings, folder, on_line)
            before, after = _measured(base, held, score, settings, folder)
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
            f"{path}: has {n_prompts} prompts to train on, and a batch of {settings.batch} in "
            f"groups of {settings.group} takes {n_groups}; give more prompts or a smaller batch"
        )


def _learn(
    model: Path,
    prompts: Sequence[Prompt],
    score: Reward,
    settings: RlSettings,
    folder: RunFolder,
    on_line: OnLine | None,
) -> dict[str, Any]:
    """Runs the trainer; gives the facts of the run, the worst on-policy check among them."""
    trl, datasets = needed("trl"), needed("datasets")
    policy, tokenizer = load_trained(model)
    config = trl.GRPOConfig(
        **arguments(settings, folder),
        num_generations=settings.group,
        max_completion_length=settings.max_tokens,
        beta=settings.beta,
        temperature=1.0,
    )
    peft_config = lora(settings.method, settings.rank, model)
    if peft_config is not None:
        policy = needed("peft").get_peft_model(policy, peft_config)
    checks: list[dict[str, float]] = []
    with ExitStack() as engines:
        rollouts = _rollouts(model, policy, settings, folder, engines, checks)
        trainer = trl.GRPOTrainer(
            policy,
            reward_funcs=[score],
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": each} for each in prompts]),
            processing_class=tokenizer,
            rollout_func=rollouts,
        )

        def last_check() -> dict[str, float]:
            return {f"rollout_{name}": v for name, v in checks[-1].items() if name != "step"}

        train(trainer, settings, folder, on_line, kept=_KEPT, more=last_check)
    lines = read_lines(folder.path / "log.jsonl")
    worst = max(line["rollout_max_logprob_diff"] for line in lines)
    return save_final(trainer, tokenizer, folder) | {"rollout_max_logprob_diff": worst}


def _rollouts(
    model: Path,
    policy: Any,
    settings: RlSettings,
    folder: RunFolder,
    engines: ExitStack,
    checks: list[dict[str, float]],
) -> Rollouts:
    """The engine that generates, and the one beside it."""
    adapters = {}
    if settings.method == "lora":
        with folder.writing("adapter") as part:  # its shapes; the values are taken over
            policy.save_pretrained(part)
        adapters[ADAPTER] = folder.path / "adapter"

    def engine(format: str) -> LLM:
        is_exact = format == "float32"
        name = str(model) if is_exact else f"{model}@{format}"
        compute = "float32" if is_exact else "auto"
        return engines.enter_context(
            LLM(name, compute=compute, device="cpu", adapters=adapters, speculation="off")
        )

    beside = {} if settings.beside == "none" else {settings.beside: engine(settings.beside)}
    return Rollouts(
        engine(settings.rollouts),
        adapter=ADAPTER if adapters else None,
        beside=beside,
        seed=settings.seed,
        tolerance=TOLERANCE if settings.rollouts == "float32" else None,
        on_check=checks.append,
    )


def _measured(
    model: Path,
    held: Sequence[Prompt],
    score: Reward,
    settings: RlSettings,
    folder: RunFolder,
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of answers to held-out prompts before and after."""
    is_adapter = settings.method == "lora"
    adapters = {ADAPTER: folder.final} if is_adapter else {}
    adapter = ADAPTER if is_adapter else None
    with LLM(model, compute="float32", device="cpu", adapters=adapters) as start:
        before, _, _ = _sampled(start, held, score, settings, None)
        with ExitStack() as stack:
            end = start
            if not is_adapter:
                end = stack.enter_context(LLM(folder.final, compute="float32", device="cpu"))
            after, prompts, answers = _sampled(end, held, score, settings, adapter)
            ours = engine_logprobs(end, prompts, answers, adapter)
            theirs = engine_logprobs(start, prompts, answers)
    both = [np.concatenate([np.array(row) for row in rows]) for rows in (ours, theirs)]
    return {"reward": before, "kl": 0.0}, {"reward": after, "kl": kl_estimate(*both)}


def _sampled(
    llm: LLM, held: Sequence[Prompt], score: Reward, settings: RlSettings, adapter: str | None
) -> tuple[float, list[list[int]], list[list[int]]]:
    """(mean reward, token ids of the prompts, and of the answers) of samples of every prompt."""
    texts = [each for each in held if isinstance(each, str)]
    chats = [each for each in held if not isinstance(each, str)]
    # Each prompt has its own seed: with one for all their answers would be alike.
    params = [
        SamplingParams(max_tokens=settings.max_tokens, n=settings.samples, seed=settings.seed + i)
        for i in range(len(held))
    ]
    n = len(texts)
    answers = llm.generate(texts, params[:n], adapter=adapter, progress=False) if texts else []
    if chats:
        answers += llm.chat(chats, params[n:], adapter=adapter, progress=False)
    prompts = [each for each in (*texts, *chats) for _ in range(settings.samples)]
    rewards = score(prompts=prompts, completions=[answer.text for answer in answers])
    ids = [answer.prompt_token_ids for answer in answers]
    return fmean(rewards), ids, [answer.token_ids for answer in answers]
