"""Every family by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from pyroclast.families import llama, mistral, qwen
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters

FAMILIES: dict[str, Family] = {
    family.name: family for family in (llama.FAMILY, mistral.FAMILY, qwen.QWEN2)
}


def config_of(hyperparameters: Hyperparameters) -> ModelConfig:
    """The config that their family makes of them."""
    return FAMILIES[hyperparameters.family].config(hyperparameters)
