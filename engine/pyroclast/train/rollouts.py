"""Rollouts for trl's trainers: Pyroclast generates what the trainer learns from.

    llm = LLM(folder, compute="float32")
    trainer = GRPOTrainer(..., rollout_func=Rollouts(llm))

Before it generates, the engine takes over the trainer's weights.  Its float32 logits are those of
transformers, so the tokens come from the very policy that is trained; every call checks that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pyroclast.errors import TrainingError
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.extra import needed
from pyroclast.train.on_policy import (
    Logprobs,
    TokenIds,
    engine_logprobs,
    kl_estimate,
    trainer_logprobs,
)

TOLERANCE = 1e-4  # of log-probabilities in float32


class Rollouts:
    """trl's rollout function: rollouts(prompts, trainer) gives the token ids of prompts and
    completions, and the log-probabilities of the latter at temperature 1.

    llm generates; adapter names the loaded adapter that is trained, where it is not the whole
    model.  beside: {"name": llm} of engines that only score the same tokens, such as a quantized
    one.  A call's seeds follow from `seed` and the trainer's step.

    on_check gets {"step", "max_logprob_diff", "kl", "kl_<name>" ...} of each call: the largest
    difference between the log-probabilities of llm and trainer, and estimates of the KL divergence
    from llm to the trainer and to each of `beside`, in nats per token.  TrainingError if the
    difference exceeds `tolerance`; None never raises, as rollouts of a quantized llm need it."""

    def __init__(
        self,
        llm: LLM,
        *,
        adapter: str | None = None,
        beside: Mapping[str, LLM] | None = None,
        seed: int = 0,
        tolerance: float | None = TOLERANCE,
        on_check: Callable[[dict[str, float]], None] = lambda _: None,
    ) -> None:
        self.llm, self.adapter, self.beside = llm, adapter, dict(beside or {})
        self.seed, self.tolerance, self.on_check = seed, tolerance, on_check
        self._taken_over: int | None = None  # the trainer's step whose weights the engines have
        self._n_calls = 0  # since then

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        pad = int(trainer.processing_class.pad_token_id or 0)
        n_rows = int(trainer.args.per_device_train_batch_size)
        return self.sample(
            [encoded(prompt, trainer.processing_class) for prompt in prompts],
            lambda seed: _params(trainer.args, seed),
            model,
            int(trainer.state.global_step),
            lambda prompt_ids, completion_ids: trainer_logprobs(
                model, prompt_ids, completion_ids, pad, n_rows
            ),
        )

    def sample(
        self,
        prompt_ids: TokenIds,
        params_of: Callable[[int], SamplingParams],
        model: Any,
        step: int,
        logprobs_of: Callable[[TokenIds, TokenIds], Logprobs],
    ) -> dict[str, Any]:
        """The same for a trainer that is not trl's.  params_of gives the parameters of a seed;
        model has the weights of `step`, the updates that were done; logprobs_of gives the
        log-probabilities of completions as the trainer computes them."""
        if step != self._taken_over:
            self.take_over(model)
            self._taken_over, self._n_calls = step, 0
        draw = np.random.default_rng([self.seed, step, self._n_calls])
        self._n_calls += 1
        params = [params_of(int(draw.integers(1 << 31))) for _ in prompt_ids]
        answers = self.llm.generate(list(prompt_ids), params, adapter=self.adapter, progress=False)
        completion_ids = [answer.token_ids for answer in answers]
        logprobs = [[token.logprob for token in answer.logprobs or []] for answer in answers]
        expected = logprobs_of(prompt_ids, completion_ids)
        self._check(step, prompt_ids, completion_ids, logprobs, expected)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": logprobs}

    def take_over(self, model: Any) -> None:
        """Gives the engines the weights of the trainer's model, or of its adapter."""
        if self.adapter is None:
            tensors = model.state_dict()
        else:
            tensors = needed("peft").get_peft_model_state_dict(model)
        for llm in (self.llm, *self.beside.values()):
            llm.update_weights(tensors, adapter=self.adapter)

    def _check(
        self,
        step: int,
        prompt_ids: TokenIds,
        completion_ids: TokenIds,
        logprobs: Logprobs,
        expected: Logprobs,
    ) -> None:
        found, theirs = _flat(logprobs), _flat(expected)
        worst = float(np.abs(found - theirs).max(initial=0.0))
        check: dict[str, float] = {
            "step": step,
            "max_logprob_diff": worst,
            "kl": kl_estimate(found, theirs),
        }
        for name, llm in self.beside.items():
            scored = engine_logprobs(llm, prompt_ids, completion_ids, self.adapter)
            check[f"kl_{name}"] = kl_estimate(found, _flat(scored))
        self.on_check(check)
        if self.tolerance is not None and not worst <= self.tolerance:
            raise TrainingError(
                f"the rollouts of step {step} are off policy: log-probabilities of "
                f"engine and trainer differ by {worst:.2g}, allowed is {self.tolerance:g}; "
                'generate with LLM(..., compute="float32") and train in float32, or pass '
                "tolerance=None"
            )


def _flat(logprobs: Logprobs) -> Any:
    return np.array([each for row in logprobs for each in row], np.float64)


def encoded(prompt: Any, tokenizer: Any) -> list[int]:
    """The token ids of text, or of messages by the model's template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def _params(args: Any, seed: int) -> SamplingParams:
    """How trl's settings say that completions are sampled."""
    return SamplingParams(
        temperature=args.temperature,
        top_k=args.top_k or 0,
        top_p=args.top_p,
        min_p=args.min_p or 0.0,
        repetition_penalty=args.repetition_penalty,
        max_tokens=args.max_completion_length,
        seed=seed,
        logprobs=0,
    )
