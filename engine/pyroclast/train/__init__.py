"""Training recipes over torch, transformers and peft (extra [train]); what they write is a Hugging
Face folder or a LoRA adapter, which `LLM` loads.

    from pyroclast.train import PretrainSettings, pretrain

    run = pretrain(["text.txt"], "run", PretrainSettings(steps=500))
    LLM(run.final)

Names are imported when they are first used.  A recipe's module has another name than its function:
importing a module of the same name would replace the function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyroclast.train.finetuning import finetune
    from pyroclast.train.preference_settings import PreferSettings, RewardSettings, RlSettings
    from pyroclast.train.preferences import prefer
    from pyroclast.train.pretraining import pretrain
    from pyroclast.train.reinforcement import rl
    from pyroclast.train.result import Result
    from pyroclast.train.reward_model import reward
    from pyroclast.train.rollouts import Rollouts
    from pyroclast.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings
    from pyroclast.train.vocabulary import tokenizer

__all__ = [
    "FinetuneSettings",
    "PreferSettings",
    "PretrainSettings",
    "Result",
    "RewardSettings",
    "RlSettings",
    "Rollouts",
    "TokenizerSettings",
    "finetune",
    "prefer",
    "pretrain",
    "reward",
    "rl",
    "tokenizer",
]
_HOME_OF = {
    "FinetuneSettings": "settings",
    "PreferSettings": "preference_settings",
    "PretrainSettings": "settings",
    "Result": "result",
    "RewardSettings": "preference_settings",
    "RlSettings": "preference_settings",
    "Rollouts": "rollouts",
    "TokenizerSettings": "settings",
    "finetune": "finetuning",
    "prefer": "preferences",
    "pretrain": "pretraining",
    "reward": "reward_model",
    "rl": "reinforcement",
    "tokenizer": "vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pyroclast.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pyroclast.train.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
