"""Gradient descent: AdamW under a cosine schedule, resumed bit for bit.

What a step computes depends on the tensors, the optimizer's state, the settings and the step's
number alone: whatever is drawn at random is drawn from (seed, step).  So a resumed run needs no
other state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pyroclast.errors import TrainingError
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine, RunLog
from pyroclast.train.run_folder import RunFolder

STATE = "training_state.pt"
FINAL_SHARE = 0.1  # of the maximum learning rate, at the last step


class DescentSettings(Protocol):
    """What is asked of a recipe's settings."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def save_every(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Update:
    """What a step tells its log."""

    loss: float
    n_tokens: int
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class Descent(ABC):
    """One run.  save writes the model into a folder.  after is called with the number of steps done
    and the folder of their checkpoint, for each number in `stops`, 0 and the last one."""

    settings: DescentSettings
    folder: RunFolder
    save: Callable[[Path], None]
    after: Callable[[int, Path, RunLog], None] = lambda *_: None
    stops: tuple[int, ...] = ()
    precision: str = field(default="float32", init=False)

    @abstractmethod
    def tensors(self) -> Mapping[str, Any]:
        """What a checkpoint keeps by name: those that are trained require a gradient."""

    @abstractmethod
    def groups(self) -> Sequence[dict[str, Any]]:
        """AdamW's groups of the trained tensors, each with the maximum `lr` of its schedule."""

    @abstractmethod
    def update(self, step: int) -> Update:
        """Does a step, counted from 1, by `descend`."""

    def choose_precision(self) -> str:
        """Of the products of a new run; a resumed one keeps its own."""
        return "float32"

    def run(self, on_line: OnLine | None = None) -> None:
        """Trains to the last step, from the newest checkpoint on."""
        settings, checkpoint = self.settings, self.folder.checkpoint()
        groups = [group for group in self.groups() if group["params"]]
        self._maximum_rates = [group["lr"] for group in groups]
        self.optimizer = needed("torch").optim.AdamW(groups, betas=(0.9, 0.95))
        first = 0
        if checkpoint is None:
            self.precision = self.choose_precision()
        else:
            first = self._restore(checkpoint[1])
        with RunLog(self.folder.path, settings.steps, first, on_line) as log:
            if checkpoint is None:
                self._stop(0, log)
            elif self._is_stop(first) and first not in log.sampled_steps():
                self.after(first, checkpoint[1], log)  # it was stopped between the two
            for step in range(first + 1, settings.steps + 1):
                needed("torch").manual_seed(settings.seed * 1_000_003 + step)
                for group, maximum in zip(
                    self.optimizer.param_groups, self._maximum_rates, strict=True
                ):
                    group["lr"] = maximum * self.share(step)
                done = self.update(step)
                rate = settings.learning_rate * self.share(step)
                log.step(step, done.loss, done.n_tokens, learning_rate=rate, **done.more)
                if self._is_stop(step):
                    self._stop(step, log)
                elif step % settings.save_every == 0:
                    self._checkpoint(step)
                    log.pause()

    def share(self, step: int) -> float:
        """A step's share of the maximum learning rate."""
        settings = self.settings
        n_warmup = max(1, round(settings.warmup * settings.steps))
        if step <= n_warmup:
            return step / n_warmup
        done = (step - n_warmup) / max(1, settings.steps - n_warmup)
        return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2

    def descend(self, step: int, losses: Iterable[Any]) -> tuple[float, float]:
        """One update of the weights by the gradient of the sum of the losses, each of which is
        computed when the one before has given its gradient; (the sum, the norm of its gradient).
        TrainingError for a loss or gradient that is no number, before it reaches the weights."""
        total = 0.0
        for loss in losses:
            value = float(loss.detach())
            self._finite("loss", step, value)
            loss.backward()
            total += value
        weights = [each for group in self.optimizer.param_groups for each in group["params"]]
        norm = float(needed("torch").nn.utils.clip_grad_norm_(weights, self.settings.clip))
        self._finite("gradient", step, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    def _finite(self, what: str, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} of step {step} is {value}: the run has diverged; lower learning_rate "
                f"(now {self.settings.learning_rate:g}) and use a new folder"
            )

    def _is_stop(self, step: int) -> bool:
        return step in (0, *self.stops, self.settings.steps)

    def _stop(self, step: int, log: RunLog) -> None:
        self.after(step, self._checkpoint(step), log)
        log.pause()

    def _checkpoint(self, step: int) -> Path:
        torch = needed("torch")
        kept = {name: tensor.detach() for name, tensor in self.tensors().items()}
        state = {"step": step, "precision": self.precision, "weights": kept}
        with self.folder.writing_step(step) as part:
            self.save(part)
            torch.save(state | {"optimizer": self.optimizer.state_dict()}, part / STATE)
        return self.folder.path / f"step-{step}"

    def _restore(self, checkpoint: Path) -> int:
        """Takes up the state of a checkpoint; returns its step."""
        torch, path = needed("torch"), checkpoint / STATE
        try:
            state = torch.load(path, weights_only=True)
            with torch.no_grad():
                for name, tensor in self.tensors().items():
                    # Reshaped: a copy alone would spread a smaller tensor over the whole.
                    tensor.copy_(state["weights"][name].reshape(tensor.shape))
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # a damaged file may raise anything in torch.load
            raise TrainingError(f"{path}: cannot be read: {error}; remove {checkpoint}") from error
        self.precision = state["precision"]
        return int(state["step"])


def micro_batches(n: int, size: int) -> list[slice]:
    """Consecutive rows of n, as few parts as hold at most `size` each, and as even as can be."""
    n_parts = -(-n // size)
    edges = [n * i // n_parts for i in range(n_parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def indices(n: int, size: int, seed: int, step: int) -> list[int]:
    """Which of n rows a step (counted from 1) of `size` reads: all in turn, each epoch in another
    order."""
    found = []
    for at in range((step - 1) * size, step * size):
        epoch, place = divmod(at, n)
        found.append(int(np.random.default_rng([seed, epoch]).permutation(n)[place]))
    return found
