"""Packed files of tiny models, and images of them that can be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from pyroclast import LLM
from pyroclast.files.packed_file import PackedFile
from pyroclast.files.packed_writer import header
from pyroclast.model.write_packed import write_packed
from pyroclast_kernels.weights import formats

TOKENS = list(range(40))
# Rows of 256 values, as K formats need them; q, k and v are one product of 48 rows.
WIDE = replace(tiny.BASE, n_layers=1, d_model=256, d_ff=256, n_heads=16, n_kv_heads=2)


def random_rows(format: str, n_rows: int, n_cols: int) -> Any:
    """Rows of blocks whose codes are random bits, and whose scales are small numbers."""
    dice = np.random.default_rng(len(format) + n_cols)
    layout = formats.FORMATS[format]
    n_bytes = n_rows * n_cols // layout.block_columns * layout.block_bytes
    blocks = dice.integers(0, 256, n_bytes, np.uint8).view(layout.dtype)
    for name in layout.dtype.names or ():
        if name in ("d", "dmin", "m"):
            blocks[name] = dice.uniform(0.001, 0.002, blocks.shape)
    if format in ("mxfp4", "nvfp4"):  # exponents, and small floats of 8 bits
        blocks["e"] = dice.integers(
            *((118, 122) if format == "mxfp4" else (1, 9)), blocks["e"].shape
        )
    if format == "iq1_m":  # the upper four bits of each are a digit of one float16 number
        blocks["scales"] = blocks["scales"] & 0x0FFF | np.array([0, 0, 0x4000, 0x1000], "<u2")
    return blocks.view(np.uint8).reshape(n_rows, -1)


def write_gguf(path: Path, format: str, config: Any = WIDE) -> Path:
    """A model whose matrices have that format, be it one that the gguf package cannot write."""
    weights, raw = tiny.random_weights(config), {}
    if format in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        return tiny.write_gguf(path, config, weights, format.upper())
    for name, values in weights.items():
        if values.ndim == 2:
            raw[name] = (format.upper(), random_rows(format, *values.shape))
    return tiny.write_gguf(path, config, weights, "F32", raw)


def packed_copy(source: Path, **options: Any) -> Path:
    """The packed file of a model, beside it."""
    target = source.with_name(source.name + ".pyro")
    write_packed(str(source), str(target), threads=2, **options)
    return target


def logits(model: Path | str, **options: Any) -> Any:
    with LLM(model, device="cpu", threads=2, n_blocks=4, **options) as llm:
        return llm.logits(TOKENS)


def same_bits(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one.view(np.uint32), other.view(np.uint32)))


class Image:
    """A packed file whose header can be changed, its digest right again."""

    def __init__(self, path: Path) -> None:
        file = PackedFile(path)
        self.metadata = {key: file.metadata.raw(key) for key in file.metadata}
        self.entries = list(file.entries.values())
        self.data = path.read_bytes()[self.entries[0].offset :]
        file.close()

    def write(self, path: Path, metadata: Any = None, entries: Any = None) -> Path:
        metadata = self.metadata if metadata is None else metadata
        entries = self.entries if entries is None else entries
        start = header(metadata, entries)
        path.write_bytes(start + bytes(self.entries[0].offset - len(start)) + self.data)
        return path
