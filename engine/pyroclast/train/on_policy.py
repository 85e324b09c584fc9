"""How likely engine and trainer hold the same tokens, and how far apart two such policies are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyroclast.llm import LLM
from pyroclast.train.extra import needed

TokenIds = Sequence[Sequence[int]]
Logprobs = list[list[float]]


def engine_logprobs(
    llm: LLM, prompt_ids: TokenIds, completion_ids: TokenIds, adapter: str | None = None
) -> Logprobs:
    """The log-probability of each token of the completions, as an engine holds them."""
    scores = llm.score(list(prompt_ids), list(completion_ids), adapter=adapter, progress=False)
    return [[token.logprob for token in score.logprobs if token is not None] for score in scores]


def trainer_logprobs(
    model: Any, prompt_ids: TokenIds, completion_ids: TokenIds, pad: int, n_rows: int
) -> Logprobs:
    """The same as the trainer's model holds them: n_rows sequences at a time, padded as trl pads
    them, prompts on the left and completions on the right."""
    torch, found, was_training = needed("torch"), Logprobs(), model.training
    model.eval()
    try:
        for i in range(0, len(prompt_ids), n_rows):
            prompts, completions = prompt_ids[i : i + n_rows], completion_ids[i : i + n_rows]
            n_prompt, n_completion = max(map(len, prompts)), max(map(len, completions))
            ids = np.full((len(prompts), n_prompt + n_completion), pad)
            mask = np.zeros_like(ids)
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
                place = slice(n_prompt - len(prompt), n_prompt + len(completion))
                ids[row, place], mask[row, place] = [*prompt, *completion], 1
            inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
            device = next(model.parameters()).device
            with torch.no_grad():
                logits = model(**{name: each.to(device) for name, each in inputs.items()}).logits
                rows = torch.log_softmax(logits[:, n_prompt - 1 : -1].float(), -1)
                chosen = inputs["input_ids"][:, n_prompt:, None].to(device)
                values = rows.gather(-1, chosen)[..., 0].cpu().tolist()
            found += [row[: len(each)] for row, each in zip(values, completions, strict=True)]
    finally:
        model.train(was_training)
    return found


def kl_estimate(sampled: Any, other: Any) -> float:
    """The mean of r - 1 - log r with r = other / sampled: an unbiased estimate, never negative, of
    the KL divergence of the policy that sampled the tokens from the other (Schulman 2020)."""
    if not len(sampled):
        return 0.0
    log_ratio = other - sampled
    return float(np.mean(np.expm1(log_ratio) - log_ratio))
