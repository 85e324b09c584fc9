"""What an `rl` run works with: the policy in torch, and the engines that generate, score beside it,
and hold the start."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroclast.llm import LLM
from pyroclast.train.extra import needed
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.rollouts import TOLERANCE, Rollouts
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.trl_run import load_trained, lora

ADAPTER = "policy"


def load_policy(model: Path, settings: RlSettings) -> tuple[Any, Any]:
    """(the model that is trained, or that with a new adapter; its tokenizer)."""
    policy, tokenizer = load_trained(model)
    config = lora(settings.method, settings.rank, model)
    if config is not None:
        needed("torch").manual_seed(settings.seed)
        policy = needed("peft").get_peft_model(policy, config)
    return policy, tokenizer


def as_logged(check: Mapping[str, float]) -> dict[str, float]:
    """A check of the rollouts as a line of the log has it."""
    return {f"rollout_{name}": value for name, value in check.items() if name != "step"}


def open_rollouts(
    model: Path,
    policy: Any,
    settings: RlSettings,
    folder: RunFolder,
    engines: ExitStack,
    checks: list[dict[str, float]],
) -> Rollouts:
    """The rollouts of a run, whose checks are appended to `checks`."""
    adapters = {}
    if settings.method == "lora":
        with folder.writing("adapter") as part:  # its shapes; the values are taken over
            policy.save_pretrained(part)
        adapters[ADAPTER] = folder.path / "adapter"

    def engine(format: str) -> LLM:
        is_exact = format == "float32"
        name = str(model) if is_exact else f"{model}@{format}"
        compute = "float32" if is_exact else "auto"
        return engines.enter_context(
            LLM(name, compute=compute, device="cpu", adapters=adapters, speculation="off")
        )

    beside = {} if settings.beside == "none" else {settings.beside: engine(settings.beside)}
    return Rollouts(
        engine(settings.rollouts),
        adapter=ADAPTER if adapters else None,
        beside=beside,
        seed=settings.seed,
        tolerance=TOLERANCE if settings.rollouts == "float32" else None,
        on_check=checks.append,
    )


def open_start(model: Path, rollouts: Rollouts, settings: RlSettings, engines: ExitStack) -> LLM:
    """The model that the run starts from, in float32: without its adapter, the engine of the
    rollouts is that."""
    if rollouts.adapter is not None and settings.rollouts == "float32":
        return rollouts.llm
    return engines.enter_context(LLM(model, compute="float32", device="cpu", speculation="off"))
