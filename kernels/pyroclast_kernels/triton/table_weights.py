"""Blocks of the formats with a table, taken apart on the device: codes become the values they stand
for, signed bytes, so that products read them as they read q8_0's.

Readers take the fields of a file's blocks, uint8 (n, n_headers, n_bytes), to (values as bytes (n,
n_headers, columns), small integers as bytes).  `device_halves` is what each scale is kept as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from pyroclast_kernels.weights import codebooks
from pyroclast_kernels.weights.table_blocks import TABLES

# What multiplies a value is kept exactly: a power of two that float16 may lack, an eighth of d.
HALVES = {"mxfp4": torch.float32, "t4_k": torch.float32}

_Fields = Mapping[str, torch.Tensor] | Any


def bits(packed: torch.Tensor, width: int, group: int) -> torch.Tensor:
    """blocks.fields: bytes (..., n_bytes) -> fields of `width` bits (..., n), the lowest of `group`
    bytes first, then their next ones, then the next group."""
    parts = packed.unflatten(-1, (-1, 1, group))
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)[:, None]
    return (parts >> shifts & (1 << width) - 1).flatten(-3)


def values_of(codes: torch.Tensor, format: str) -> torch.Tensor:
    """The table's values, as bytes."""
    table = torch.tensor(TABLES[format], dtype=torch.int8, device=codes.device)
    return table[codes.int()].view(torch.uint8)


def device_halves(numbers: torch.Tensor, format: str) -> torch.Tensor:
    """16-bit numbers of a header, float16 as blocks.Blocks has them, as HALVES keeps them."""
    if format == "mxfp4":  # bfloat16 bits
        return (numbers.view(torch.int16).int() << 16).view(torch.float32)
    return numbers.float() * 0.125 if format == "t4_k" else numbers


def e8m0_halves(e: torch.Tensor) -> torch.Tensor:
    """2 ** (e - 128) as the bits of a bfloat16, seen as float16: (..., 1) of bytes (..., 1)."""
    wide = e.to(torch.int16)
    return torch.where(wide < 2, 0x20 << wide, (wide - 1) << 7).to(torch.int16).view(torch.float16)


def _read_32(fields: _Fields, format: str) -> tuple[Any, Any]:
    return values_of(bits(fields["qs"], 4, 16), format), fields["qs"][..., :0]


def _read_iq4_xs(fields: _Fields) -> tuple[Any, Any]:
    scales = bits(fields["scales_l"], 4, 1) | bits(fields["scales_h"], 2, 1) << 4
    return values_of(bits(fields["qs"], 4, 16), "iq4_xs"), scales - 32  # wraps: a signed byte


def _read_iq3_s(fields: _Fields) -> tuple[Any, Any]:
    codes = fields["qs"].int() | bits(fields["qh"], 1, 1).int() << 8
    grid = torch.from_numpy(codebooks.grid("iq3_s")).to(codes.device)
    magnitudes, negative = grid[codes].flatten(-2), bits(fields["signs"], 1, 1)
    values = torch.where(negative.bool(), -magnitudes, magnitudes)
    return values.view(torch.uint8), 2 * bits(fields["scales"], 4, 1) + 1


def _read_t4_k(fields: _Fields) -> tuple[Any, Any]:
    return values_of(bits(fields["qs"], 4, 16), "t4_k"), fields["scales"]


READERS: dict[str, Callable[[_Fields], tuple[Any, Any]]] = {
    "iq4_nl": partial(_read_32, format="iq4_nl"),
    "mxfp4": partial(_read_32, format="mxfp4"),
    "iq4_xs": _read_iq4_xs,
    "iq3_s": _read_iq3_s,
    "t4_k": _read_t4_k,
}
