"""What `residual` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.norm.reference import normed
from pyroclast_kernels.residual import AS_IT_IS

Array = NDArray[Any]


def residual(
    n_tokens: Array,
    x: Array,
    y: Array,
    weight: Array | None,
    bias: Array | None,
    x_scale: Array | None,
    d_model: int,
    eps: float,
    kind: int,
    scale: float,
) -> None:
    """x[t] += scale * N(y[t]), where N is nothing for kind -1, RMS norm for 0, layer norm for 1;
    then x[t] *= x_scale[0], where there is one.

    n_tokens int64 (1,); x and y float32 (max_batch_tokens, d_model), two arrays; scale is rounded
    to float32.  weight, bias and eps are those of the op `norm`; for kind -1 they are not read,
    and both arrays may be None.  x_scale is float32 (1,) or None.
    """
    t = int(n_tokens[0])
    added = y[:t, :d_model]
    if kind != AS_IT_IS:
        assert weight is not None
        added = normed(added, weight, bias, eps, kind)
    x[:t, :d_model] += np.float32(scale) * added
    if x_scale is not None:
        x[:t, :d_model] *= x_scale[0]
