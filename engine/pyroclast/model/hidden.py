"""Hidden rows: states of chosen layers beside the logits, for embeddings and for views.

Which layers is settled when the step is recorded; without any, nothing is recorded and no memory is
taken.  Rows are those of batch.logit_rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.model.workspace import Activations
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder

FINAL = "final"

# i is the state after layer i, FINAL is what the final norm makes of the last one.
HiddenLayer = int | str


class HiddenRows:
    """Where the rows lie, float32 (n chosen, max_logits, d_model), and the calls that fill them.
    RequestError for a layer that the model does not have."""

    def __init__(
        self, chosen: Sequence[HiddenLayer], config: ModelConfig, batch: Batch, memory: Memory
    ) -> None:
        n_layers = config.n_layers
        for layer in chosen:
            if layer != FINAL and layer not in range(n_layers):
                raise RequestError(
                    f'hidden_layers must be in 0..{n_layers - 1} or "{FINAL}", got {layer!r}'
                )
        self._chosen, self._batch, self._memory = tuple(chosen), batch, memory
        self._rows: Any = memory.zeros((len(chosen), batch.max_logits, config.d_model), np.float32)

    def record_layer(self, ops: Recorder, layer: int, x: Any) -> None:
        """Copies rows of x (max_batch_tokens, d_model), the state after `layer`, where it was
        chosen."""
        for i, chosen in enumerate(self._chosen):
            if chosen == layer:
                ops.call(
                    "gather_rows",
                    n_tokens=self._batch.n_logits_at,
                    rows=self._batch.logit_rows,
                    x=x,
                    out=self._rows[i],
                    n_cols=x.shape[1],
                )

    @property
    def final(self) -> list[Activations]:
        """What the final norm writes to in float32, whatever the output head reads: one output for
        each FINAL that was chosen."""
        chosen = [i for i, layer in enumerate(self._chosen) if layer == FINAL]
        return [Activations(self._rows[i], None) for i in chosen]

    def read(self) -> NDArray[np.float32]:
        """The rows, of which the first batch.n_logits hold; from a GPU a copy."""
        if not self._memory.on_gpu:
            rows: NDArray[np.float32] = self._rows
            return rows
        found = np.zeros(self._rows.shape, np.float32)
        n_rows = self._batch.n_logits
        for i in range(len(found)):
            found[i, :n_rows] = self._memory.to_host(self._rows[i], n_rows)
        return found
