"""PPO (Schulman et al. 2017) on torch, as it is used on language models (Ziegler et al. 2019), with
rollouts by Pyroclast.

A step samples answers, has them scored, and takes a few passes over them in minibatches.  A
minibatch is read in micro-batches, whose gradients add up to one update.  The value
head shares the policy's states.  The KL divergence from the start is part of each token's reward.
The policy that a ratio is taken to is the one that sampled the tokens: where a quantized engine
did, PPO's ratio corrects for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.sampling.params import SamplingParams
from pyroclast.train.advantages import advantages, clipped_loss, token_rewards, whitened
from pyroclast.train.descent import Descent, Update, indices, micro_batches
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine
from pyroclast.train.on_policy import Logprobs, TokenIds, engine_logprobs, kl_estimate
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.prompts import Prompt
from pyroclast.train.rewards import Reward, scored
from pyroclast.train.rl_engines import as_logged, load_policy, open_rollouts, open_start
from pyroclast.train.rollouts import Rollouts, encoded
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.trl_run import save_final
from pyroclast.train.value_head import Reading, ValueHead, joined, padded, read

_DRAWS = 7  # keeps the order of minibatches apart from other draws of a seed and step


@dataclass(frozen=True)
class _Answers:
    """What a step learns from: token ids, and float64 arrays (n, n_tokens), in units of rewards
    except for advantages, which are whitened."""

    prompt_ids: TokenIds
    completion_ids: TokenIds
    mask: Any
    sampled: Any  # log-probabilities of the policy that sampled the tokens
    advantages: Any
    returns: Any


@dataclass(kw_only=True)
class Ppo(Descent):
    """A run.  policy: a transformers model, or peft's around one, whose parameters with
    requires_grad are trained; start gives log-probabilities of completions as the start has them,
    and is not asked where settings.beta is 0; last_check gives what the rollouts' check found."""

    settings: RlSettings
    policy: Any
    tokenizer: Any
    prompts: Sequence[Prompt]
    score: Reward
    rollouts: Rollouts
    start: Callable[[TokenIds, TokenIds], Logprobs]
    last_check: Callable[[], Mapping[str, float]]

    def __post_init__(self) -> None:
        self.policy.eval()  # dropout would change the policy between rollout and ratio
        # Adapters may be attached to a model whose hidden size only its text part names.
        self.head = ValueHead(self.policy.config.get_text_config().hidden_size)

    def tensors(self) -> dict[str, Any]:
        """The weights that are trained, and the value head."""
        trained = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
        return trained | dict(self.head.tensors())

    def groups(self) -> Sequence[dict[str, Any]]:
        """The policy and the value head, each with its own rate."""
        weights = [each for each in self.policy.parameters() if each.requires_grad]
        policy = {"params": weights, "weight_decay": 0.0, "lr": self.settings.learning_rate}
        return [policy, self.head.group()]

    def update(self, step: int) -> Update:
        """Samples, scores, and learns."""
        answers, facts = self._sampled(step)
        losses, found = [], []
        for rows in self._minibatches(step):
            parts: list[dict[str, float]] = []
            loss, norm = self.descend(step, self._losses(answers, rows, parts))
            losses.append(loss)
            sums = {name: sum(part[name] for part in parts) for name in parts[0]}
            found.append(sums | {"gradient_norm": norm})
        means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        n_tokens = sum(map(len, (*answers.prompt_ids, *answers.completion_ids)))
        return Update(float(np.mean(losses)), n_tokens, facts | means | dict(self.last_check()))

    def _minibatches(self, step: int) -> Iterator[Any]:
        """The rows of each minibatch, in another order each pass."""
        settings = self.settings
        draw = np.random.default_rng([settings.seed, step, _DRAWS])
        for _ in range(settings.passes):
            order = draw.permutation(settings.batch)
            yield from np.array_split(order, min(settings.minibatches, settings.batch))

    def _sampled(self, step: int) -> tuple[_Answers, dict[str, float]]:
        """Answers with their advantages, and what the log says of them."""
        settings, readings = self.settings, list[Reading]()
        n_prompts = settings.batch // settings.group
        chosen = indices(len(self.prompts), n_prompts, settings.seed, step)
        prompts = [self.prompts[i] for i in chosen for _ in range(settings.group)]

        def logprobs_of(prompt_ids: TokenIds, completion_ids: TokenIds) -> Logprobs:
            with needed("torch").no_grad():
                readings.append(self._read_all(prompt_ids, completion_ids))
            rows = readings[0].logprobs.tolist()
            return [row[: len(each)] for row, each in zip(rows, completion_ids, strict=True)]

        rollout = self.rollouts.sample(
            [encoded(prompt, self.tokenizer) for prompt in prompts],
            lambda seed: SamplingParams(max_tokens=settings.max_tokens, seed=seed, logprobs=0),
            self.policy,
            step - 1,
            logprobs_of,
        )
        completion_ids = rollout["completion_ids"]
        texts = self.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        scores = np.array(scored(self.score, prompts, texts, completion_ids))
        return self._weighed(rollout, readings[0], scores)

    def _weighed(
        self, rollout: dict[str, Any], reading: Reading, scores: Any
    ) -> tuple[_Answers, dict[str, float]]:
        settings, ids = self.settings, (rollout["prompt_ids"], rollout["completion_ids"])
        sampled, mask = padded(rollout["logprobs"], 0.0, np.float64)
        policy = reading.logprobs.double().numpy() * mask
        facts = {"reward": float(scores.mean()), "reward_std": float(scores.std())}
        start = policy
        if settings.beta:
            start = padded(self.start(*ids), 0.0, np.float64)[0]
            facts["kl"] = kl_estimate(policy[mask > 0], start[mask > 0])
        rewards = token_rewards(scores, policy - start, mask, settings.beta)
        self.head.follow(rewards.sum(axis=1))
        values = self.head.rewards_of(reading.values.double().numpy()) * mask
        gained = advantages(rewards, values, mask, settings.gae_decay)
        facts["entropy"] = float(reading.entropies.numpy()[mask > 0].mean())
        facts["completions/mean_length"] = float(mask.sum(axis=1).mean())
        returns = gained + values
        return _Answers(*ids, mask, sampled, whitened(gained, mask), returns), facts

    def _read_all(self, prompt_ids: TokenIds, completion_ids: TokenIds) -> Reading:
        return joined(
            self._read(prompt_ids[rows], completion_ids[rows])
            for rows in micro_batches(len(prompt_ids), self.settings.micro_batch)
        )

    def _read(self, prompt_ids: TokenIds, completion_ids: TokenIds) -> Reading:
        pad = int(self.tokenizer.pad_token_id or 0)
        return read(self.policy, self.head, prompt_ids, completion_ids, pad)

    def _losses(self, answers: _Answers, rows: Any, found: list[dict[str, float]]) -> Iterator[Any]:
        """The parts of a minibatch's loss: one for each micro-batch, by its share of the tokens.
        found gets the same parts of the figures."""
        n_tokens = answers.mask[rows].sum()
        for part in micro_batches(len(rows), self.settings.micro_batch):
            loss, figures = self._loss(answers, rows[part])
            share = float(answers.mask[rows[part]].sum() / n_tokens)
            found.append({name: share * value for name, value in figures.items()})
            yield share * loss

    def _loss(self, answers: _Answers, rows: Any) -> tuple[Any, dict[str, float]]:
        """The loss of some of the answers, and its parts."""
        torch, settings = needed("torch"), self.settings
        ids = [[each[i] for i in rows] for each in (answers.prompt_ids, answers.completion_ids)]
        reading = self._read(*ids)
        n_tokens = reading.logprobs.shape[1]

        def tensor(values: Any) -> Any:
            return torch.from_numpy(values[rows, :n_tokens].astype(np.float32))

        mask = tensor(answers.mask)
        log_ratio = (reading.logprobs - tensor(answers.sampled)) * mask
        loss, clipped = clipped_loss(
            log_ratio, tensor(answers.advantages), mask, settings.clip_range
        )
        misses = reading.values - tensor(self.head.units_of(answers.returns))
        value_loss = (misses.square() * mask).sum() / mask.sum()
        figures = {"value_loss": float(value_loss.detach()), "clip_fraction": float(clipped)}
        return loss + settings.value_weight * value_loss, figures


def learn_by_ppo(
    model: Path,
    prompts: Sequence[Prompt],
    score: Reward,
    settings: RlSettings,
    folder: RunFolder,
    on_line: OnLine | None,
) -> dict[str, Any]:
    """Runs PPO; gives the facts of the run."""
    policy, tokenizer = load_policy(model, settings)
    checks: list[dict[str, float]] = []

    def save(part: Path) -> None:
        policy.save_pretrained(part)
        tokenizer.save_pretrained(part)

    with ExitStack() as engines:
        rollouts = open_rollouts(model, policy, settings, folder, engines, checks)
        start = open_start(model, rollouts, settings, engines) if settings.beta else rollouts.llm
        Ppo(
            settings=settings,
            folder=folder,
            save=save,
            policy=policy,
            tokenizer=tokenizer,
            prompts=prompts,
            score=score,
            rollouts=rollouts,
            start=lambda *ids: engine_logprobs(start, *ids),
            last_check=lambda: as_logged(checks[-1]),
        ).run(on_line)
    return save_final(policy, tokenizer, folder)
