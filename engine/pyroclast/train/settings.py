"""The settings of the recipes: one dataclass each, from which the command's flags are made.

Only the standard library is imported, because the command line reads this file at every start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from pyroclast.errors import TrainingError


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a settings class: its default, its help text, and the values it may have."""
    limits = {"help": help, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class Settings:
    """Base of the settings of a recipe.  A value out of range is a TrainingError."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name), each.metadata, type(each.default))

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _check(name: str, value: Any, limits: Mapping[str, Any], kind: type) -> None:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise TrainingError(f"{name} must be {words[kind]}, got {value!r}")
    if limits["choices"] and value not in limits["choices"]:
        raise TrainingError(f"{name} must be {' or '.join(limits['choices'])}, got {value!r}")
    low, number = limits["minimum"], cast("float", value)
    high: float = math.inf if limits["maximum"] is None else limits["maximum"]
    if low is not None and not low <= number <= high:
        reach = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise TrainingError(f"{name} must be {reach}, got {value!r}")


@dataclass(frozen=True)
class TokenizerSettings(Settings):
    """A byte-level BPE vocabulary."""

    vocab_size: int = setting(1024, "tokens in all", minimum=258, maximum=1 << 20)


@dataclass(frozen=True)
class LoopSettings(Settings):
    """What every run of gradient descent has.  The learning rate rises to its maximum over `warmup`
    of the steps and falls along a cosine to a tenth of it."""

    steps: int = setting(1000, "updates of the weights", minimum=1)
    batch: int = setting(8, "sequences in an update", minimum=1)
    micro_batch: int = setting(
        8, "sequences in one pass of the model; the gradients of a batch add up", minimum=1
    )
    learning_rate: float = setting(3e-3, "maximum of the schedule", minimum=0, maximum=10)
    warmup: float = setting(0.05, "share of the steps that raises it", minimum=0, maximum=1)
    weight_decay: float = setting(0.1, "AdamW's, on matrices", minimum=0, maximum=10)
    clip: float = setting(1.0, "maximum norm of the gradient", minimum=1e-6, maximum=1e6)
    precision: str = setting(
        "auto",
        "of products; auto takes bfloat16 where this CPU has it and it is faster",
        choices=("auto", "float32", "bfloat16"),
    )
    save_every: int = setting(100, "steps between checkpoints", minimum=1)
    seed: int = setting(0, "the same seed gives the same run", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True)
class PretrainSettings(LoopSettings):
    """A model from random weights."""

    shape: str = setting("llama", "family of the model", choices=("llama", "gpt2"))
    layers: int = setting(4, "layers of the model", minimum=1, maximum=256)
    width: int = setting(256, "size of the hidden state", minimum=8, maximum=1 << 14)
    heads: int = setting(4, "heads of attention", minimum=1, maximum=1024)
    context: int = setting(128, "tokens that the model sees", minimum=8, maximum=1 << 16)
    dropout: float = setting(0.0, "share of activations dropped", minimum=0, maximum=0.9)
    vocab_size: int = setting(
        1024, "tokens of the vocabulary that is trained", minimum=258, maximum=1 << 20
    )
    held_out: float = setting(0.1, "share of the text for measuring", minimum=0.01, maximum=0.5)


@dataclass(frozen=True)
class FinetuneSettings(LoopSettings):
    """A model trained on examples."""

    steps: int = setting(100, "updates of the weights", minimum=1)
    batch: int = setting(4, "examples in an update", minimum=1)
    learning_rate: float = setting(1e-3, "maximum of the schedule", minimum=0, maximum=10)
    weight_decay: float = setting(0.0, "AdamW's, on matrices", minimum=0, maximum=10)
    save_every: int = setting(50, "steps between checkpoints", minimum=1)
    method: str = setting("lora", "what is trained", choices=("lora", "full"))
    rank: int = setting(16, "of the adapter", minimum=1, maximum=1024)
    max_tokens: int = setting(512, "longest example; a longer one is an error", minimum=8)
    held_out: float = setting(0.2, "share of the examples for measuring", minimum=0, maximum=0.9)
