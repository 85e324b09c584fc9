"""Random rows of any weight format, as a file holds them: all codes occur, scales are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights import formats

Array = NDArray[Any]


def random_blocks(n_rows: int, n_cols: int, format: str, rms: float = 0.02, seed: int = 0) -> Array:
    """uint8 (n_rows, row_bytes), every bit pattern of codes and small scales; values of that root
    mean square, or near it."""
    rng = np.random.default_rng([seed, n_rows, n_cols])
    raw = rng.integers(0, 256, (n_rows, formats.row_bytes(n_cols, format)), np.uint8)
    blocks = raw.view(formats.FORMATS[format].dtype)
    _scale(blocks, rng.uniform(0.5, 2, blocks.shape), format)
    now = float(np.sqrt((formats.dequantize(raw, format) ** 2).mean()))
    _scale(blocks, rng.uniform(0.5, 2, blocks.shape) * rms / now, format)
    return raw


def _scale(blocks: Array, d: Array, format: str) -> None:
    """Writes these scales; "m" and "dmin" get a fraction of them."""
    if format == "mxfp4":
        blocks["e"] = np.round(np.log2(d)) + 128
    elif format == "nvfp4":
        blocks["e"] = np.clip(np.round(8 * np.log2(2 * d)) + 56, 1, 126)[..., None]
    elif format == "iq1_m":  # a nibble in each scale word
        bits = d.astype(np.float16).view(np.uint16)[..., None] >> np.array([0, 4, 8, 12], np.uint16)
        blocks["scales"] = blocks["scales"] & np.uint16(0xFFF) | bits << np.uint16(12)
    else:
        for name, share in {"d": 1.0, "dmin": 0.3, "m": -0.3}.items():
            if name in (blocks.dtype.names or ()):
                blocks[name] = share * d
