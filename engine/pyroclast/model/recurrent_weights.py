"""The weights of a recurrent mixer that are no products: filters, decays, steps and a norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.recurrent import Mamba2Spec, RecurrentSpec, ShortConvSpec

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RecurrentWeights:
    """filters (width, n_channels), the oldest token first, and their bias (n_channels,).  Of a
    mixer with heads: decay and dt_bias (n_heads,), and a norm: of each head (v_head_dim,) for the
    gated delta rule, of all values (value_dim,) for Mamba 2, which also has skip (n_heads,)."""

    filters: Floats
    bias: Floats | None = None
    decay: Floats | None = None
    dt_bias: Floats | None = None
    skip: Floats | None = None
    norm: Floats | None = None


class Reader(Protocol):
    """What `packer.Packer` does with vectors."""

    def vector(self, *names: str) -> Any: ...
    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any: ...


def load_recurrent(reader: Reader, prefix: str, spec: RecurrentSpec) -> RecurrentWeights:
    """Those of the layer whose names begin like that."""
    filters = reader.array(prefix + "conv", np.transpose)  # files have a row for each channel
    if isinstance(spec, ShortConvSpec):
        return RecurrentWeights(filters)
    is_mamba = isinstance(spec, Mamba2Spec)
    has_bias = isinstance(spec, Mamba2Spec) and spec.conv_bias
    return RecurrentWeights(
        filters,
        bias=reader.vector(prefix + "conv_bias") if has_bias else None,
        decay=reader.array(prefix + "decay", _minus_exp if spec.log_decay else np.asarray),
        dt_bias=reader.vector(prefix + "dt_bias"),
        skip=reader.vector(prefix + "skip") if is_mamba else None,
        norm=reader.vector(prefix + ("ssm_norm" if is_mamba else "delta_norm")),
    )


def _minus_exp(values: Floats) -> Floats:
    return -np.exp(values)
