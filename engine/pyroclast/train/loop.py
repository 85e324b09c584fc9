"""Gradient descent on the cross-entropy of next tokens: `pretrain` and `finetune`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyroclast.train.descent import Descent, Update, micro_batches
from pyroclast.train.examples import NO_LOSS
from pyroclast.train.extra import needed
from pyroclast.train.precision import autocast, chosen_precision
from pyroclast.train.settings import LoopSettings

Batch = Mapping[str, Any]


@dataclass(kw_only=True)
class Loop(Descent):
    """One run.  model: a transformers model; its parameters with requires_grad are trained.

    batch_of gives the batch of a step (counted from 1): input_ids and labels, int64 (n, length),
    labels already moved by one and -100 where no loss is taken; more keys go to the model."""

    model: Any
    settings: LoopSettings
    batch_of: Callable[[int], Batch]

    def tensors(self) -> dict[str, Any]:
        """The weights that are trained."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def groups(self) -> Sequence[dict[str, Any]]:
        """Matrices, which decay, and the rest, which does not."""
        weights, rate = self.tensors().values(), self.settings.learning_rate
        decay = self.settings.weight_decay
        return [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": decay, "lr": rate},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0, "lr": rate},
        ]

    def choose_precision(self) -> str:
        """The one of the settings, or the faster one."""
        return chosen_precision(self.settings.precision, self._trial)

    def update(self, step: int) -> Update:
        """One update of the weights."""
        batch = self.batch_of(step)
        loss, norm = self.descend(step, self._losses(batch, self.precision))
        return Update(loss, int(batch["input_ids"].numel()), {"gradient_norm": norm})

    def _losses(self, batch: Batch, precision: str) -> Iterator[Any]:
        """The parts of the labels' mean cross-entropy: one for each micro-batch."""
        torch, labels = needed("torch"), batch["labels"]
        n_labels = int((labels != NO_LOSS).sum())
        self.model.train()
        for rows in micro_batches(len(labels), self.settings.micro_batch):
            inputs = {
                name: value[rows] if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
                if name != "labels"
            }
            with autocast(precision):
                logits = self.model(**inputs).logits
            flat = logits.float().reshape(-1, logits.shape[-1])
            each = torch.nn.functional.cross_entropy(
                flat, labels[rows].reshape(-1), ignore_index=NO_LOSS, reduction="sum"
            )
            yield each / n_labels

    def _trial(self, precision: str) -> None:
        """One step that changes nothing, to be timed."""
        for loss in self._losses(self.batch_of(1), precision):
            loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
