"""Random rows of any weight format, as a file holds them: all codes occur, scales are finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights import formats
from tiny import BASE, random_weights, write_gguf

Array = NDArray[Any]
# Columns that every format takes.
CONFIG = replace(BASE, d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512)


def random_blocks(n_rows: int, n_cols: int, format: str, rms: float = 0.02, seed: int = 0) -> Array:
    """uint8 (n_rows, row_bytes), every bit pattern of codes and small scales; values of about that
    root mean square, and of mean 0."""
    rng = np.random.default_rng([seed, n_rows, n_cols])
    raw = rng.integers(0, 256, (n_rows, formats.row_bytes(n_cols, format)), np.uint8)
    blocks = raw.view(formats.FORMATS[format].dtype)
    if format in ("f32", "f16", "bf16"):
        return formats.quantize(rng.normal(0, rms, (n_rows, n_cols)).astype(np.float32), format)
    d = rng.uniform(-2, 2, (2, *blocks.shape))
    _put_scales(blocks, d, format)
    now = float(np.sqrt((formats.dequantize(raw, format) ** 2).mean()))
    _put_scales(blocks, d * rms / now, format)
    return raw


def file_pair(folder: Path, format: str) -> tuple[Path, Path]:
    """A model file of random blocks in that format, and a float32 file of the values that the
    `gguf` package finds in them."""
    values, blocks, kind = random_weights(CONFIG), {}, gguf.GGMLQuantizationType[format.upper()]
    for seed, (name, matrix) in enumerate(values.items()):
        if matrix.ndim == 2:
            raw = random_blocks(*matrix.shape, format, float(matrix.std()), seed)
            blocks[name] = (format.upper(), raw)
            values[name] = gguf.quants.dequantize(raw, kind)
    stored = write_gguf(folder / "blocks.gguf", CONFIG, values, raw=blocks)
    return stored, write_gguf(folder / "values.gguf", CONFIG, values)


def _put_scales(blocks: Array, d: Array, format: str) -> None:
    """Writes d[0], and d[1] as the minimum's scale; FP4 has no signs, and the size to a power of
    two, or an eighth of its exponent."""
    log = np.log2(np.abs(d[0]) + 0.1 * np.abs(d[0]).max())
    if format == "mxfp4":
        blocks["e"] = np.round(log) + 128
    elif format == "nvfp4":
        blocks["e"] = np.clip(np.round(8 * log) + 64, 1, 126)[..., None]
    elif format == "iq1_m":  # a nibble in each scale word
        halves = d[0].astype(np.float16).view(np.uint16)
        nibbles = halves[..., None] >> np.array([0, 4, 8, 12], np.uint16)
        blocks["scales"] = blocks["scales"] & np.uint16(0xFFF) | nibbles << np.uint16(12)
    else:
        for name, number in {"d": d[0], "dmin": d[1], "m": d[1]}.items():
            if name in (blocks.dtype.names or ()):
                blocks[name] = number
