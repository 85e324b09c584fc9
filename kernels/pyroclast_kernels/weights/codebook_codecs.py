"""How the blocks of codebook, ternary and FP4 formats turn into values: exact products of few bits.

Each value of these formats is d * unit * scale * code: d a float, `unit` a power of two, scale and
code small integers.  No product needs more than the 24 bits of a float32, so their order does not
matter, and the results are ggml's to the bit.  `codes_and_scales` gives the integers, which
`recode` lays out as blocks of another format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyroclast_kernels.weights import codebooks
from pyroclast_kernels.weights.block_codecs import Bytes, Floats

Array = Any


@dataclass(frozen=True)
class Codec:
    """A format of this kind: `read` takes blocks (n,) to scales (n, n_scales) and codes int8
    (n, columns), columns / n_scales side by side to a scale; `d` takes them to float32 (n, 1)."""

    unit: float
    read: Callable[[Array], tuple[Array, Array]]
    d: Callable[[Array], Floats]

    def decode(self, blocks: Array) -> Floats:
        """float32 (n, columns)."""
        scales, codes = self.read(blocks)
        steps = self.d(blocks) * np.float32(self.unit) * scales.astype(np.float32)
        codes = codes.reshape(*steps.shape, -1).astype(np.float32)
        values: Floats = steps[:, :, None] * codes
        return values.reshape(len(blocks), -1)


def _half(blocks: Array) -> Floats:
    d: Floats = blocks["d"].astype(np.float32)[:, None]
    return d


def _bits(packed: Array, width: int) -> Array:
    """Fields of `width` bits of each integer, lowest first: (n, m) -> (n, m * fields)."""
    n_bits = 8 * packed.dtype.itemsize
    shifts = np.arange(0, n_bits - n_bits % width, width, dtype=packed.dtype)
    fields = packed[..., None] >> shifts & packed.dtype.type((1 << width) - 1)
    return fields.reshape(len(packed), -1)


def _nibbles(packed: Bytes, group: int) -> Array:
    """The low nibbles of `group` bytes, then their high ones: (n, m) -> (n, 2 * m)."""
    parts = packed.reshape(len(packed), -1, 1, group) >> np.array([[0], [4]], np.uint8)
    return (parts & np.uint8(15)).reshape(len(packed), -1)


def _signed(grid: Array, signs: Array) -> Array:
    """Grid rows (n, m, values) with a bit for each value, set where it is negative."""
    # -v is (v ^ -1) + 1: bytes of -1 looked up for 8 bits at a time are three times as fast as the
    # bits one by one.
    negative = codebooks.byte_masks()[signs].reshape(len(grid), -1)
    return (grid.reshape(len(grid), -1) ^ negative) - negative


def _sign_words(words: Array) -> tuple[Array, Array]:
    """uint32 (n, m) -> 4-bit scales (n, m), and sign bytes (n, 4 m) of four 7-bit indices."""
    indices = words[..., None] >> np.array([0, 7, 14, 21], np.uint32) & np.uint32(127)
    return words >> np.uint32(28), codebooks.sign_masks()[indices].reshape(len(words), -1)


# -- IQ4: a table of 16 values ----------------------------------------------------------------


def _table(codes: Array, values: tuple[int, ...]) -> Array:
    return np.array(values, np.int8)[codes]


def _ones(blocks: Array) -> Array:
    return np.ones((len(blocks), 1), np.uint8)


def iq4_nl(blocks: Array) -> tuple[Array, Array]:
    """32 nibbles into the non-linear table."""
    return _ones(blocks), _table(_nibbles(blocks["qs"], 16), codebooks.NON_LINEAR)


def iq4_xs_scales(blocks: Array) -> Array:
    """int8 (..., 8): nibbles in scales_l, two more bits in scales_h, less 32."""
    low, high = blocks["scales_l"], blocks["scales_h"][..., None]
    low = (low[..., None] >> np.array([0, 4], np.uint8) & np.uint8(15)).reshape(*low.shape[:-1], 8)
    high = (high >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(3)).astype(np.uint8)
    return (low | high << np.uint8(4)).astype(np.int8) - np.int8(32)


def iq4_xs(blocks: Array) -> tuple[Array, Array]:
    """8 groups of 32 nibbles, each with a six-bit scale."""
    return iq4_xs_scales(blocks), _table(_nibbles(blocks["qs"], 16), codebooks.NON_LINEAR)


# -- IQ3, IQ2, IQ1: grids of 4 or 8 values ----------------------------------------------------


def iq3_s(blocks: Array) -> tuple[Array, Array]:
    """9-bit codes of 4 values: 8 bits in qs, one in qh; scales are odd."""
    codes = blocks["qs"] | _bits(blocks["qh"], 1).astype(np.uint16) << np.uint16(8)
    grid = codebooks.grid("iq3_s")[codes]
    return 2 * _bits(blocks["scales"], 4) + np.uint8(1), _signed(grid, blocks["signs"])


def iq3_xxs(blocks: Array) -> tuple[Array, Array]:
    """8-bit codes of 4 values; a word for 32 values holds a scale and signs."""
    scales, signs = _sign_words(blocks["words"])
    return 2 * scales + np.uint32(1), _signed(codebooks.grid("iq3_xxs")[blocks["qs"]], signs)


def iq2_xxs(blocks: Array) -> tuple[Array, Array]:
    """Two words for 32 values: four 8-bit codes of 8 values; a scale and signs."""
    scales, signs = _sign_words(np.ascontiguousarray(blocks["words"][..., 1]))
    codes = np.ascontiguousarray(blocks["words"][..., 0]).view(np.uint8)
    return 2 * scales + np.uint32(1), _signed(codebooks.grid("iq2_xxs")[codes], signs)


def iq2_xs(blocks: Array) -> tuple[Array, Array]:
    """16 bits for 8 values: a 9-bit code and signs; 4-bit scales for 16 values."""
    signs = codebooks.sign_masks()[blocks["qs"] >> np.uint16(9)]
    grid = codebooks.grid("iq2_xs")[blocks["qs"] & np.uint16(511)]
    return 2 * _bits(blocks["scales"], 4) + np.uint8(1), _signed(grid, signs)


def iq2_s(blocks: Array) -> tuple[Array, Array]:
    """10-bit codes of 8 values: 8 bits in qs, two in qh; 4-bit scales for 16 values."""
    codes = blocks["qs"] | _bits(blocks["qh"], 2).astype(np.uint16) << np.uint16(8)
    grid = codebooks.grid("iq2_s")[codes]
    return 2 * _bits(blocks["scales"], 4) + np.uint8(1), _signed(grid, blocks["signs"])


def _iq1(codes: Array, negative: Array) -> Array:
    """11-bit codes of 8 values, each moved by an eighth up or down: in eighths."""
    eighths = np.where(negative, np.int8(-1), np.int8(1))[..., None]
    values = 8 * codebooks.grid("iq1")[codes] + eighths
    return values.reshape(len(codes), -1)


def iq1_s(blocks: Array) -> tuple[Array, Array]:
    """A word for 32 values: the high bits of four codes, a scale, which way the values move."""
    words = blocks["qh"]
    high = words[..., None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    codes = blocks["qs"] | (high << np.uint16(8)).reshape(len(words), -1)
    negative = np.repeat(words >> np.uint16(15), 4, axis=1)
    return 2 * (words >> np.uint16(12) & np.uint16(7)) + np.uint16(1), _iq1(codes, negative)


def iq1_m(blocks: Array) -> tuple[Array, Array]:
    """A nibble for 8 values: the high bits of a code, which way they move; 3-bit scales."""
    nibbles = _bits(blocks["qh"], 4)
    codes = blocks["qs"] | (nibbles & np.uint8(7)).astype(np.uint16) << np.uint16(8)
    scales = blocks["scales"][..., None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    return 2 * scales.reshape(len(codes), -1) + np.uint16(1), _iq1(codes, nibbles >> np.uint8(3))


def _iq1_m_d(blocks: Array) -> Floats:
    """The float16 whose four nibbles are the top ones of the four scale words."""
    shifts = np.array([12, 8, 4, 0], np.uint16)
    bits = np.bitwise_or.reduce((blocks["scales"] & np.uint16(0xF000)) >> shifts, axis=1)
    d: Floats = bits.view(np.float16).astype(np.float32)[:, None]
    return d


# -- ternary, FP4 -----------------------------------------------------------------------------


def tq2_0(blocks: Array) -> tuple[Array, Array]:
    """Two-bit codes less 1, of 32 bytes at a time."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = blocks["qs"].reshape(len(blocks), -1, 1, 32) >> shifts & np.uint8(3)
    return _ones(blocks), codes.reshape(len(blocks), -1).astype(np.int8) - np.int8(1)


def tq1_0(blocks: Array) -> tuple[Array, Array]:
    """Five base-3 digits in a byte, which is a fraction of 256: times 3 ** i, the carry is digit i
    (qh: four digits)."""

    def digits(packed: Array, n: int) -> Array:
        powers = np.array([1, 3, 9, 27, 81][:n], np.uint8)[:, None]
        shifted = packed[:, None] * powers  # modulo 256: the digits before are gone
        found = shifted.astype(np.uint16) * np.uint16(3) >> np.uint16(8)
        return found.reshape(len(packed), -1)

    qs = blocks["qs"]
    parts = [digits(qs[:, :32], 5), digits(qs[:, 32:], 5), digits(blocks["qh"], 4)]
    return _ones(blocks), np.concatenate(parts, axis=1).astype(np.int8) - np.int8(1)


def mxfp4(blocks: Array) -> tuple[Array, Array]:
    """32 E2M1 nibbles."""
    return _ones(blocks), _table(_nibbles(blocks["qs"], 16), codebooks.E2M1_DOUBLED)


def _e8m0(blocks: Array) -> Floats:
    """2 ** (e - 128), half of what E8M0 says, since the codes are doubled."""
    e = blocks["e"].astype(np.uint32)
    bits = np.where(e < 2, np.uint32(0x00200000) << e, (e - np.uint32(1)) << np.uint32(23))
    d: Floats = bits.astype(np.uint32).view(np.float32)[:, None]
    return d


def nvfp4(blocks: Array) -> tuple[Array, Array]:
    """4 groups of 16 E2M1 nibbles; their scales are in `d`."""
    return _ones(blocks), _table(_nibbles(blocks["qs"], 8), codebooks.E2M1_DOUBLED)


def _ue4m3(blocks: Array) -> Floats:
    """float32 (n, 4): unsigned E4M3, halved, since the codes are doubled; 0x7f is 0, as in ggml."""
    bits = blocks["e"]
    exponent, mantissa = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    small = mantissa * np.float32(2.0**-10)
    large = np.ldexp(np.float32(1) + mantissa / np.float32(8), exponent - 8)
    d: Floats = np.where(exponent == 0, small, large).astype(np.float32)
    d[bits == 0x7F] = 0
    return d


def t4_k(blocks: Array) -> tuple[Array, Array]:
    """Our own: nibbles into the table of all values of IQ1 and IQ2; signed scales of 16."""
    return blocks["scales"], _table(_nibbles(blocks["qs"], 16), codebooks.GRID_EIGHTHS)


CODECS = {
    "iq4_nl": Codec(1, iq4_nl, _half),
    "iq4_xs": Codec(1, iq4_xs, _half),
    "iq3_s": Codec(1, iq3_s, _half),
    "iq3_xxs": Codec(1 / 4, iq3_xxs, _half),
    "iq2_xxs": Codec(1 / 8, iq2_xxs, _half),
    "iq2_xs": Codec(1 / 8, iq2_xs, _half),
    "iq2_s": Codec(1 / 8, iq2_s, _half),
    "iq1_s": Codec(1 / 8, iq1_s, _half),
    "iq1_m": Codec(1 / 8, iq1_m, _iq1_m_d),
    "t4_k": Codec(1 / 8, t4_k, _half),
    "tq1_0": Codec(1, tq1_0, _half),
    "tq2_0": Codec(1, tq2_0, _half),
    "mxfp4": Codec(1, mxfp4, _e8m0),
    "nvfp4": Codec(1, nvfp4, _ue4m3),
}
