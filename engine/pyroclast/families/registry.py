"""Every family by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from pyroclast.families import (
    gemma,
    gemma3n,
    gemma4,
    gpt2,
    gpt_oss,
    granite,
    granite_hybrid,
    lfm2,
    lfm2_moe,
    llama,
    mistral,
    nemotron_h,
    olmo,
    phi,
    qwen,
    qwen3_5,
    smollm,
    starcoder,
)
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        mistral.MINISTRAL3,
        qwen.QWEN2,
        qwen.QWEN3,
        qwen.QWEN3_MOE,
        qwen3_5.QWEN3_5,
        smollm.SMOLLM3,
        gemma.GEMMA2,
        gemma.GEMMA3,
        gemma3n.GEMMA3N,
        gemma4.GEMMA4,
        phi.PHI3,
        gpt2.GPT2,
        gpt_oss.GPT_OSS,
        lfm2.LFM2,
        lfm2_moe.LFM2_MOE,
        granite.GRANITE,
        granite_hybrid.GRANITE_HYBRID,
        granite.GRANITE4,
        granite.GRANITE_MOE,
        granite.GRANITE_MOE_SHARED,
        nemotron_h.NEMOTRON_H_MOE,
        nemotron_h.NEMOTRON_H,
        olmo.OLMO2,
        olmo.OLMO3,
        starcoder.STARCODER2,
    )
}


def config_of(hyperparameters: Hyperparameters) -> ModelConfig:
    """The config that their family makes of them."""
    return FAMILIES[hyperparameters.family].config(hyperparameters)
