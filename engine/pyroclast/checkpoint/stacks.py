"""Rows of many matrices as one: those of a layer's experts, whether a file has a tensor for each or
one for all; and gpt-oss's way to store MXFP4 in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyroclast.checkpoint.tensor import Bytes, FileRows, RowSource, Scratch

_BLOCK = 32  # values of an MXFP4 block
_QUANTS = _BLOCK // 2


@dataclass(frozen=True)
class StackedRows:
    """Sources of rows_each rows, one below the other."""

    sources: Sequence[RowSource]
    rows_each: int
    at_once = False

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows' bytes; of a single source as it gives them, else joined."""
        each, found = self.rows_each, []
        for i in range(first // each, -(-last // each)):
            begin, end = max(first - i * each, 0), min(last - i * each, each)
            rows = self.sources[i].rows(begin, end, scratch)
            if last - first == end - begin:
                return rows
            found.append(rows.copy())  # scratch is used again
        return np.concatenate(found)


@dataclass(frozen=True)
class AlternatingRows:
    """rows_each rows of the first source, as many of the second, ..., then the next of the first:
    gate and up of one expert after the other.  Each time zeros fill them up to `stride` rows."""

    sources: Sequence[RowSource]
    rows_each: int
    stride: int
    row_bytes: int

    @property
    def at_once(self) -> bool:
        """As the sources."""
        return any(source.at_once for source in self.sources)

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows' bytes, copied out of what the sources give."""
        out = np.zeros((last - first, self.row_bytes), np.uint8)
        for run in range(first // self.stride, -(-last // self.stride)):
            start, (turn, source) = run * self.stride, divmod(run, len(self.sources))
            begin, end = max(first - start, 0), min(last - start, self.rows_each)
            if begin < end:
                base = turn * self.rows_each
                rows = self.sources[source].rows(base + begin, base + end, scratch)
                out[start + begin - first : start + end - first] = rows
        return out


@dataclass(frozen=True)
class FolderMxfp4Rows:
    """MXFP4 of two tensors: blocks has 16 bytes for 32 values, the first value in the low nibble of
    the first byte, the second in its high one; scales has an exponent for each block.  GGUF puts
    the exponent first, and value i beside value i + 16 in a byte."""

    blocks: FileRows
    scales: FileRows
    at_once = False

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows as GGUF has them."""
        quants = self.blocks.rows(first, last, scratch).reshape(last - first, -1, _QUANTS)
        codes = np.stack([quants & 0x0F, quants >> 4], axis=-1).reshape(*quants.shape[:2], _BLOCK)
        out = np.empty((*quants.shape[:2], 1 + _QUANTS), np.uint8)
        out[..., 1:] = codes[..., :_QUANTS] | codes[..., _QUANTS:] << 4
        out[..., 0] = self.scales.rows(first, last, scratch)
        return out.reshape(last - first, -1)


@dataclass(frozen=True)
class FilledRows:
    """Another source's first n_stored rows, then its first row again and again."""

    inner: RowSource
    n_stored: int

    @property
    def at_once(self) -> bool:
        """As the inner source."""
        return self.inner.at_once

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """Rows [first, last)."""
        if last <= self.n_stored:
            return self.inner.rows(first, last, scratch)
        again = self.inner.rows(0, 1, scratch).copy()
        n_again = last - max(first, self.n_stored)
        parts = [np.repeat(again, n_again, axis=0)]
        if first < self.n_stored:
            parts.insert(0, self.inner.rows(first, self.n_stored, scratch))
        return np.concatenate(parts)
