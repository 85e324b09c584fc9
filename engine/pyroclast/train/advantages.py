"""What PPO (Schulman et al. 2017) computes from answers and their scores; arrays (n, n_tokens) hold
an answer a row, and mask is 1 where it has a token.  As for language models in Ziegler et al. 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast.train.extra import needed

_TINY = 1e-8


def token_rewards(scores: Any, log_ratio: Any, mask: Any, beta: float) -> Any:
    """The reward of each token: beta times how much less likely than at the start it is, and at the
    last token of an answer also its score.  log_ratio: of the policy to the start."""
    rewards = -beta * log_ratio * mask
    last = mask.sum(axis=1).astype(int) - 1
    rewards[np.arange(len(rewards)), last] += scores
    return rewards


def advantages(rewards: Any, values: Any, mask: Any, decay: float) -> Any:
    """Generalized advantages (Schulman et al. 2016) without discount: the sum of later errors
    r[t] + v[t + 1] - v[t], each weighed by decay to the power of its distance.  Nothing follows the
    last token, whether the text ended there or was cut."""
    found = np.zeros_like(rewards)
    later_value, later = np.zeros(len(rewards)), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + later_value - values[:, t]
        later = (error + decay * later) * mask[:, t]
        later_value = values[:, t] * mask[:, t]
        found[:, t] = later
    return found


def whitened(values: Any, mask: Any) -> Any:
    """The values with mean 0 and deviation 1 over all tokens."""
    chosen = values[mask > 0]
    return (values - chosen.mean()) / (chosen.std() + _TINY) * mask


def clipped_loss(log_ratio: Any, advantage: Any, mask: Any, reach: float) -> tuple[Any, Any]:
    """(PPO's loss, the share of tokens that clipping holds): tensors.  log_ratio: of the policy to
    the one that sampled the tokens.  A token gains nothing from a ratio beyond 1 +- reach."""
    torch = needed("torch")
    ratio = torch.exp(log_ratio)
    free = -advantage * ratio
    held = -advantage * ratio.clamp(1 - reach, 1 + reach)
    n_tokens = mask.sum()
    loss = (torch.maximum(free, held) * mask).sum() / n_tokens
    return loss, ((held > free) * mask).sum() / n_tokens
