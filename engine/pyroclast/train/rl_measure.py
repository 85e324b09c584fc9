"""How a policy answers held-out prompts, before and after `rl`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

import numpy as np

from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.on_policy import engine_logprobs, kl_estimate
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.prompts import Prompt
from pyroclast.train.rewards import Reward, scored
from pyroclast.train.rl_engines import ADAPTER
from pyroclast.train.run_folder import RunFolder


def measured(
    model: Path,
    held: Sequence[Prompt],
    score: Reward,
    settings: RlSettings,
    folder: RunFolder,
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of answers to held-out prompts before and after: the mean reward, and the KL
    divergence of the trained policy from the start."""
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
    ids = [answer.token_ids for answer in answers]
    rewards = scored(score, prompts, [answer.text for answer in answers], ids)
    return fmean(rewards), [answer.prompt_token_ids for answer in answers], ids
