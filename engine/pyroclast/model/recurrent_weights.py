"""The weights of a recurrent mixer that are no products: filters, decay, steps and a norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.recurrent import GatedDeltaSpec, RecurrentSpec

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RecurrentWeights:
    """filters (width, n_channels), the oldest token first.  Of the gated delta rule: decay and
    dt_bias (n_v_heads,), and the norm of each head (v_head_dim,)."""

    filters: Floats
    decay: Floats | None = None
    dt_bias: Floats | None = None
    norm: Floats | None = None


class Reader(Protocol):
    """What `packer.Packer` does with vectors."""

    def vector(self, *names: str) -> Any: ...
    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any: ...


def load_recurrent(reader: Reader, prefix: str, spec: RecurrentSpec) -> RecurrentWeights:
    """Those of the layer whose names begin like that."""
    filters = reader.array(prefix + "conv", np.transpose)  # files have a row for each channel
    if not isinstance(spec, GatedDeltaSpec):
        return RecurrentWeights(filters)
    return RecurrentWeights(
        filters,
        decay=reader.array(prefix + "decay", _minus_exp if spec.log_decay else np.asarray),
        dt_bias=reader.vector(prefix + "dt_bias"),
        norm=reader.vector(prefix + "delta_norm"),
    )


def _minus_exp(values: Floats) -> Floats:
    return -np.exp(values)
