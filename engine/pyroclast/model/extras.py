"""What a step is recorded to do beside the logits, if anything."""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.hidden import HiddenLayer


@dataclass(frozen=True)
class StepExtras:
    """hidden_layers: states that every step keeps, see HiddenRows.  adapters: room for low-rank
    additions, see Adapters."""

    hidden_layers: tuple[HiddenLayer, ...] = ()
    adapters: AdapterSlots | None = None

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops that a step without extras does not call."""
        hidden = ("gather_rows",) if self.hidden_layers else ()
        return hidden + (("low_rank",) if self.adapters is not None else ())


NO_EXTRAS = StepExtras()
