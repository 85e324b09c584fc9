"""Gradient descent: AdamW under a cosine schedule, resumed bit for bit.

What a step computes depends on the weights, the optimizer's state, the settings and the step's
number alone: batches and dropout draw from (seed, step).  So a resumed run needs no other state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.train.extra import needed
from pyroclast.train.log import RunLog
from pyroclast.train.precision import autocast, chosen_precision
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.settings import LoopSettings

STATE = "training_state.pt"
FINAL_SHARE = 0.1  # of the maximum learning rate, at the last step
Batch = Mapping[str, Any]


@dataclass
class Loop:
    """One run.  model: a transformers model; its parameters with requires_grad are trained.

    batch_of gives the batch of a step (counted from 1): input_ids and labels, int64 (n, length),
    labels already moved by one and -100 where no loss is taken; more keys go to the model.  save
    writes the model into a folder.  after is called with the number of steps done and the folder of
    their checkpoint, for each number in `stops`, 0 and the last one."""

    model: Any
    settings: LoopSettings
    folder: RunFolder
    batch_of: Callable[[int], Batch]
    save: Callable[[Path], None]
    after: Callable[[int, Path, RunLog], None]
    stops: tuple[int, ...] = ()

    def run(self, on_line: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Trains to the last step, from the newest checkpoint on."""
        settings, checkpoint = self.settings, self.folder.checkpoint()
        self.optimizer = _optimizer(self.model, settings)
        first = 0
        if checkpoint is None:
            self.precision = chosen_precision(settings.precision, self._trial)
        else:
            first = self._restore(checkpoint[1])
        with RunLog(self.folder.path, settings.steps, first, on_line) as log:
            if checkpoint is None:
                self._stop(0, log)
            elif self._is_stop(first) and first not in log.sampled_steps():
                self.after(first, checkpoint[1], log)  # it was stopped between the two
            for step in range(first + 1, settings.steps + 1):
                loss, norm, n_tokens = self._step(step)
                log.step(step, loss, n_tokens, learning_rate=self.rate(step), gradient_norm=norm)
                if self._is_stop(step):
                    self._stop(step, log)
                elif step % settings.save_every == 0:
                    self._checkpoint(step)
                    log.pause()

    def _is_stop(self, step: int) -> bool:
        return step in (0, *self.stops, self.settings.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        settings = self.settings
        n_warmup = max(1, round(settings.warmup * settings.steps))
        if step <= n_warmup:
            return settings.learning_rate * step / n_warmup
        done = (step - n_warmup) / max(1, settings.steps - n_warmup)
        share = FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2
        return settings.learning_rate * share

    def _step(self, step: int) -> tuple[float, float, int]:
        """One update: (loss, norm of the gradient, tokens read)."""
        torch = needed("torch")
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        batch = self.batch_of(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        loss = self._loss(batch, self.precision)
        value = self._finite("loss", step, float(loss.detach()))
        loss.backward()
        weights = [each for group in self.optimizer.param_groups for each in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(weights, self.settings.clip))
        self._finite("gradient", step, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value, norm, int(batch["input_ids"].numel())

    def _finite(self, what: str, step: int, value: float) -> float:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} of step {step} is {value}: the run has diverged; lower learning_rate "
                f"(now {self.settings.learning_rate:g}) and use a new folder"
            )
        return value

    def _loss(self, batch: Batch, precision: str) -> Any:
        """The mean cross-entropy of the labels."""
        torch = needed("torch")
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        self.model.train()
        with autocast(precision):
            logits = self.model(**inputs).logits
        labels = batch["labels"]
        return torch.nn.functional.cross_entropy(
            logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1)
        )

    def _trial(self, precision: str) -> None:
        """One step that changes nothing, to be timed."""
        self._loss(self.batch_of(1), precision).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _stop(self, step: int, log: RunLog) -> None:
        self.after(step, self._checkpoint(step), log)
        log.pause()

    def _checkpoint(self, step: int) -> Path:
        torch = needed("torch")
        trained = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        state = {"step": step, "precision": self.precision, "weights": trained}
        with self.folder.writing_step(step) as part:
            self.save(part)
            torch.save(state | {"optimizer": self.optimizer.state_dict()}, part / STATE)
        return self.folder.path / f"step-{step}"

    def _restore(self, checkpoint: Path) -> int:
        """Takes up the state of a checkpoint; returns its step."""
        torch, path = needed("torch"), checkpoint / STATE
        try:
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["weights"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # a damaged file may raise anything in torch.load
            raise TrainingError(f"{path}: cannot be read: {error}; remove {checkpoint}") from error
        self.precision = state["precision"]
        return int(state["step"])


def _optimizer(model: Any, settings: LoopSettings) -> Any:
    """AdamW; only matrices decay."""
    weights = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return needed("torch").optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.95)
    )
