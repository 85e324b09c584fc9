"""The value of a policy's states, for PPO: what an unfinished answer will be rewarded with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyroclast.train.extra import needed
from pyroclast.train.on_policy import TokenIds

_RATE = 0.1  # of an update, in deviations of the returns, for states of size 1
_FOLLOWED = 0.1  # share that a step's rewards have in the scale of the values
_TINY = 1e-6


class ValueHead:
    """A linear map of the final states (..., d_model) to values (...).

    It works in units of the rewards' deviation from their mean, which `follow` measures: the size
    of rewards changes neither how fast it learns nor the policy, whose states it shares."""

    def __init__(self, d_model: int) -> None:
        torch = needed("torch")
        self.weight = torch.zeros(d_model, requires_grad=True)
        self.bias = torch.zeros((), requires_grad=True)
        self.scale = torch.zeros(2, dtype=torch.float64)  # mean and deviation; 0 before the first

    def tensors(self) -> Mapping[str, Any]:
        """By name, for a checkpoint."""
        return {
            "value_head.weight": self.weight,
            "value_head.bias": self.bias,
            "value_head.scale": self.scale,
        }

    def group(self) -> dict[str, Any]:
        """What AdamW trains of it, and how fast: AdamW moves each weight by the rate."""
        rate = _RATE / len(self.weight)
        return {"params": [self.weight, self.bias], "weight_decay": 0.0, "lr": rate}

    def __call__(self, states: Any) -> Any:
        """In units of the deviation."""
        return states @ self.weight + self.bias

    def follow(self, totals: Any) -> None:
        """Takes the rewards of a step's whole answers, float64 (n,), into the scale; the first ones
        are all of it, and a larger deviation at once: a rare reward is no outlier of the values."""
        seen = needed("torch").tensor([totals.mean(), totals.std() + _TINY], dtype=self.scale.dtype)
        share = _FOLLOWED if self.scale[1] > 0 else 1.0
        self.scale += share * (seen - self.scale)
        self.scale[1] = max(self.scale[1], seen[1])

    def rewards_of(self, values: Any) -> Any:
        """Values in the units of rewards."""
        mean, deviation = self.scale.tolist()
        return values * deviation + mean

    def units_of(self, rewards: Any) -> Any:
        """Rewards in units of the deviation."""
        mean, deviation = self.scale.tolist()
        return (rewards - mean) / deviation


@dataclass(frozen=True)
class Reading:
    """What a policy makes of answers: tensors (n, n_tokens), meaningless where an answer is
    shorter.  entropies have no gradient; values are in units of the head's deviation."""

    logprobs: Any
    entropies: Any
    values: Any


def read(
    policy: Any, head: ValueHead, prompt_ids: TokenIds, completion_ids: TokenIds, pad: int
) -> Reading:
    """One forward pass over prompts with their completions, padded at the end."""
    torch = needed("torch")
    rows = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
    ids, mask = padded(rows, pad, np.int64)
    completions, _ = padded(completion_ids, pad, np.int64)
    first = min(map(len, prompt_ids)) - 1  # the position whose logits are the first that count
    out = policy(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        logits_to_keep=ids.shape[1] - first,
        output_hidden_states=True,
    )
    starts = np.array([len(p) - 1 for p in prompt_ids])[:, None]
    places = np.minimum(starts + np.arange(completions.shape[1]), ids.shape[1] - 1)
    row, place = np.arange(len(rows))[:, None], torch.from_numpy(places)
    logits = torch.log_softmax(out.logits[row, place - first].float(), -1)
    chosen = logits.gather(-1, torch.from_numpy(completions)[..., None])[..., 0]
    with torch.no_grad():
        entropies = -(logits.exp() * logits).sum(-1)
    return Reading(chosen, entropies, head(out.hidden_states[-1][row, place].float()))


def joined(parts: Iterable[Reading]) -> Reading:
    """The readings of some answers after the other, filled up to the longest with zeros."""
    torch, every = needed("torch"), list(parts)
    longest = max(part.logprobs.shape[1] for part in every)

    def whole(name: str) -> Any:
        rows = [getattr(part, name) for part in every]
        pad = torch.nn.functional.pad
        return torch.cat([pad(each, (0, longest - each.shape[1])) for each in rows])

    return Reading(*map(whole, ("logprobs", "entropies", "values")))


def padded(rows: Sequence[Sequence[Any]], pad: Any, dtype: Any) -> tuple[Any, Any]:
    """(n, longest) filled up at the end, and float64 1 where a row has a value."""
    filled = np.full((len(rows), max(1, *map(len, rows))), pad, dtype)
    mask = np.zeros(filled.shape)
    for i, row in enumerate(rows):
        filled[i, : len(row)], mask[i, : len(row)] = row, 1.0
    return filled, mask
