"""Formats that no kernel computes, laid out as blocks of one that kernels do compute.

Codes and scales are moved, not rounded.  Nothing is lost but the last bit of IQ3_XXS's float16
scale, which is halved, where it is below 2 ** -14.  `RECODED` says which format becomes what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import formats, table_blocks
from pyroclast_kernels.weights.codebook_codecs import CODECS

Array = NDArray[Any]

# Rows are laid out in groups of about this many values, so that temporaries stay in the cache.
_GROUP_VALUES = 1 << 18


@dataclass(frozen=True)
class Recoding:
    """A format's target; blocks takes structured blocks (n,) to the target's."""

    target: str
    blocks: Callable[[Array, str], Array]


def recode(raw: Array, format: str) -> Array:
    """Rows as in a file, uint8 (n_rows, row_bytes), in the format that RECODED names."""
    if format not in RECODED:
        raise KernelError(f"{format} is not recoded; recoded are {', '.join(RECODED)}")
    recoding, layout = RECODED[format], formats.FORMATS[format]
    n_rows, n_bytes = raw.shape
    n_cols = n_bytes // layout.block_bytes * layout.block_columns
    out = np.empty((n_rows, formats.row_bytes(n_cols, recoding.target)), np.uint8)
    step = max(1, _GROUP_VALUES // n_cols)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, n_rows, step):
            group = np.ascontiguousarray(raw[start : start + step])
            blocks = recoding.blocks(group.reshape(-1).view(layout.dtype), format)
            out[start : start + step] = blocks.view(np.uint8).reshape(len(group), -1)
    return out


def _empty(format: str, n: int) -> Array:
    return np.empty(n, formats.FORMATS[format].dtype)


def _to_f16(blocks: Array, format: str) -> Array:
    """NVFP4: 6 significant bits between 2 ** -10 and 2880, which float16 has as they are."""
    values = CODECS[format].decode(blocks)
    return values.astype(np.float16).reshape(-1)


def _to_t4_k(blocks: Array, format: str) -> Array:
    """Scales and values as they are; the table has all of them."""
    scales, values = CODECS[format].read(blocks)
    out = _empty("t4_k", len(blocks))
    out["d"] = CODECS[format].d(blocks)[:, 0]
    out["scales"] = np.repeat(scales, 16 // scales.shape[1], axis=1)
    out["qs"] = table_blocks.put_nibbles(table_blocks.codes_of(values, "t4_k"))
    return out


def _to_q6_k(blocks: Array, format: str) -> Array:
    """IQ3_XXS: its values are even, up to 62; half of each is a code, and d / 2 the scale."""
    codec = CODECS[format]
    scales, values = codec.read(blocks)
    out = _empty("q6_k", len(blocks))
    out["d"] = (codec.d(blocks) * np.float32(2 * codec.unit))[:, 0]
    out["scales"] = np.repeat(scales, 2, axis=1)
    codes = (values // 2 + 32).astype(np.uint8)
    low = codes.reshape(-1, 2, 2, 64) & np.uint8(15)  # as decode_q6_k reads them
    out["ql"] = (low[:, :, 0] | low[:, :, 1] << np.uint8(4)).reshape(-1, 128)
    high = codes.reshape(-1, 2, 4, 32) >> np.uint8(4)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    out["qh"] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 64)
    return out


def _to_q2_k(blocks: Array, format: str) -> Array:
    """Codes -1..2 as 0..3, scales of 1, and a minimum of d."""
    codec = CODECS[format]
    codes = (codec.read(blocks)[1] + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    out = _empty("q2_k", len(blocks))
    out["d"] = out["dmin"] = blocks["d"]
    out["scales"] = 0x11  # the scale, and the minimum's own
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    out["qs"] = np.bitwise_or.reduce(codes << shifts, axis=2).reshape(-1, 64)
    return out


RECODED = {
    "iq3_xxs": Recoding("q6_k", _to_q6_k),
    "iq2_xxs": Recoding("t4_k", _to_t4_k),
    "iq2_xs": Recoding("t4_k", _to_t4_k),
    "iq2_s": Recoding("t4_k", _to_t4_k),
    "iq1_s": Recoding("t4_k", _to_t4_k),
    "iq1_m": Recoding("t4_k", _to_t4_k),
    "tq1_0": Recoding("q2_k", _to_q2_k),
    "tq2_0": Recoding("q2_k", _to_q2_k),
    "nvfp4": Recoding("f16", _to_f16),
}
