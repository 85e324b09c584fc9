"""Random weights as files hold them, in every format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.blocks import LAYOUTS

_LARGEST_SCALE = {
    "q2_k": 15, "q3_k": 32, "q4_k": 63, "q5_k": 63, "q6_k": 128, "iq4_xs": 32, "iq3_s": 31,
    "t4_k": 16,
}  # fmt: skip


def raw_rows(rng: np.random.Generator, n_rows: int, n_cols: int, format: str) -> NDArray[np.uint8]:
    """Random rows as in a file, uint8 (n_rows, row_bytes)."""
    if format in formats.quantizable_formats():
        values = rng.standard_normal((n_rows, n_cols)).astype(np.float32)
        return formats.quantize(values, format)
    # No encoder here: every bit pattern is a block, so that all codes and small scales occur; only
    # the float16 numbers are drawn such that values come out near 1.
    raw = rng.integers(0, 256, (n_rows, formats.row_bytes(n_cols, format)), np.uint8)
    blocks, layout = raw.view(formats.FORMATS[format].dtype), LAYOUTS[format]
    largest = _LARGEST_SCALE.get(format, 1)
    code = max(map(abs, layout.table)) if layout.table else 1 << layout.bits
    for name, unit in {"d": code, "dmin": 1, "m": 1}.items():
        if name in (blocks.dtype.names or ()):
            factors = rng.uniform(-4, 4, blocks.shape) / (unit * largest)
            blocks[name] = factors.astype(np.float16)
    if format == "mxfp4":
        blocks["e"] = rng.integers(118, 126, blocks.shape)
    return raw
