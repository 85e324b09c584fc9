"""The settings of `prefer`, `reward` and `rl`, which run trl's trainers."""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.errors import TrainingError
from pyroclast.train.settings import Settings, setting


@dataclass(frozen=True)
class TrainerSettings(Settings):
    """What every run of a trainer of trl has.  Training is in float32."""

    steps: int = setting(100, "updates of the weights", minimum=1)
    batch: int = setting(8, "rows in an update", minimum=1)
    micro_batch: int = setting(
        8, "rows in one pass of the model; the gradients of a batch add up", minimum=1
    )
    learning_rate: float = setting(1e-5, "of AdamW, along a cosine", minimum=0, maximum=10)
    warmup: float = setting(0.05, "share of the steps that raises it", minimum=0, maximum=1)
    clip: float = setting(1.0, "maximum norm of the gradient", minimum=1e-6, maximum=1e6)
    save_every: int = setting(50, "steps between checkpoints", minimum=1)
    held_out: float = setting(0.1, "share of the rows for measuring", minimum=0.001, maximum=0.9)
    seed: int = setting(0, "the same seed gives the same run", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True)
class PreferSettings(TrainerSettings):
    """DPO: chosen answers become more likely than rejected ones."""

    method: str = setting("lora", "what is trained", choices=("lora", "full"))
    rank: int = setting(16, "of the adapter", minimum=1, maximum=1024)
    learning_rate: float = setting(1e-4, "of AdamW, along a cosine", minimum=0, maximum=10)
    beta: float = setting(0.1, "how closely it stays by the start", minimum=1e-6, maximum=10)
    max_tokens: int = setting(512, "of prompt and answer; longer ones are cut", minimum=8)


@dataclass(frozen=True)
class RewardSettings(TrainerSettings):
    """A model that gives the chosen answer of a pair the larger number."""

    learning_rate: float = setting(1e-4, "of AdamW, along a cosine", minimum=0, maximum=10)
    max_tokens: int = setting(512, "of prompt and answer; longer ones are cut", minimum=8)


@dataclass(frozen=True)
class RlSettings(TrainerSettings):
    """Answers with a larger reward become more likely.  GRPO compares several answers to a prompt;
    PPO compares each token's reward with what a value head expected."""

    algorithm: str = setting("grpo", "how it learns", choices=("grpo", "ppo"))
    method: str = setting("full", "what is trained", choices=("lora", "full"))
    rank: int = setting(16, "of the adapter", minimum=1, maximum=1024)
    group: int = setting(4, "answers to each prompt; batch is a multiple", minimum=1)
    max_tokens: int = setting(64, "of an answer", minimum=1)
    beta: float = setting(0.04, "weight of the KL divergence to the start", minimum=0, maximum=10)
    passes: int = setting(2, "over the answers of a step (PPO)", minimum=1)
    minibatches: int = setting(2, "updates in a pass (PPO)", minimum=1)
    clip_range: float = setting(
        0.2, "how far a ratio may move in a step (PPO)", minimum=1e-3, maximum=1
    )
    gae_decay: float = setting(0.95, "weight of the next token's error (PPO)", minimum=0, maximum=1)
    value_weight: float = setting(0.1, "of the value head's loss (PPO)", minimum=0, maximum=100)
    rollouts: str = setting(
        "float32", "what generates", choices=("float32", "q8_0", "q4_0", "bf16")
    )
    beside: str = setting(
        "none", "scores the same tokens, to see what it would change",
        choices=("none", "q8_0", "q4_0", "bf16"),
    )  # fmt: skip
    samples: int = setting(4, "to each held-out prompt, for measuring", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm == "grpo" and self.group < 2:
            raise TrainingError(
                f"group must be at least 2 for grpo, which compares the answers, got {self.group}"
            )
