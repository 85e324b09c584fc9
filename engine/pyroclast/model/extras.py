"""What a step is recorded to do beside the logits, if anything."""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.model.hidden import HiddenLayer


@dataclass(frozen=True)
class StepExtras:
    """hidden_layers: states that every step keeps, see HiddenRows."""

    hidden_layers: tuple[HiddenLayer, ...] = ()


NO_EXTRAS = StepExtras()
