"""Formats whose 4-bit codes stand for one of 16 values: a file's blocks as codes and scales.

readers take the structured blocks of a file (n, n_headers) to (codes uint8 (n, n_headers,
columns), small integers as bytes (n, n_headers, 0, 8 or 16)).  TABLES holds each format's values.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights import codebooks
from pyroclast_kernels.weights.codebook_codecs import CODECS, iq4_xs_scales

Array = NDArray[Any]

TABLES = {
    "iq4_nl": codebooks.NON_LINEAR,
    "iq4_xs": codebooks.NON_LINEAR,
    "iq3_s": tuple(range(-15, 16, 2)),
    "mxfp4": codebooks.E2M1_DOUBLED,
    "t4_k": codebooks.GRID_EIGHTHS,
}


def codes_of(values: Array, format: str) -> Array:
    """The uint8 codes of int8 values that the format's table has."""
    # Ten times as fast as an array as index, which NumPy widens to 8 bytes first.
    found = np.frombuffer(values.tobytes().translate(_codes_by_byte(format)), np.uint8)
    return found.reshape(values.shape)


@cache
def _codes_by_byte(format: str) -> bytes:
    codes = bytearray(256)
    for code, value in reversed(list(enumerate(TABLES[format]))):
        codes[value & 255] = code
    return bytes(codes)


def nibbles(packed: Array) -> Array:
    """Runs of 16 bytes (..., m): the low nibbles of each run, then its high ones (..., 2 m)."""
    parts = packed.reshape(*packed.shape[:-1], -1, 1, 16) >> np.array([[0], [4]], np.uint8)
    out: Array = (parts & np.uint8(15)).reshape(*packed.shape[:-1], -1)
    return out


def put_nibbles(codes: Array) -> Array:
    """The inverse of nibbles."""
    pairs = codes.reshape(*codes.shape[:-1], -1, 2, 16)
    out: Array = (pairs[..., 0, :] | pairs[..., 1, :] << np.uint8(4)).reshape(*codes.shape[:-1], -1)
    return out


def read_32(blocks: Any) -> tuple[Array, Array]:
    """iq4_nl, mxfp4: nibbles, and no small integers."""
    return nibbles(blocks["qs"]), np.zeros((*blocks.shape, 0), np.uint8)


def read_iq4_xs(blocks: Any) -> tuple[Array, Array]:
    return nibbles(blocks["qs"]), iq4_xs_scales(blocks).view(np.uint8)


def read_iq3_s(blocks: Any) -> tuple[Array, Array]:
    """The grid's values have 4 bits each; the grid itself is not needed any more."""
    scales, values = CODECS["iq3_s"].read(blocks.reshape(-1))
    codes = codes_of(values, "iq3_s")
    return codes.reshape(*blocks.shape, 256), scales.reshape(*blocks.shape, 8)


def read_t4_k(blocks: Any) -> tuple[Array, Array]:
    return nibbles(blocks["qs"]), blocks["scales"].view(np.uint8)


def e8m0_halves(blocks: Any) -> Array:
    """mxfp4: 2 ** (e - 128) as the bits of a bfloat16, in place of a float16 (n, n_headers, 1)."""
    e = blocks["e"].astype(np.uint16)[..., None]
    bits = np.where(e < 2, np.uint16(0x20) << e, (e - np.uint16(1)) << np.uint16(7))
    halves: Array = bits.astype(np.uint16).view("<f2")
    return halves


def bfloat(halves: Array) -> Array:
    """The float32 of bfloat16 bits."""
    bits = np.ascontiguousarray(halves).view(np.uint16).astype(np.uint32) << np.uint32(16)
    out: Array = bits.view(np.float32)
    return out
