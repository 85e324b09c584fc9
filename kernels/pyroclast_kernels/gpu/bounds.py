"""Upper bounds of a step, rounded so that there are few kinds of step: each is compiled once, and
captured as a graph where it only decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from pyroclast_kernels.batch import Batch
from pyroclast_kernels.triton.launch import Limits

_SINGLE = 64  # up to here bounds of tokens double, above they are its multiples
_SHORTEST = 1024
_FURTHER = 4  # from one bound of the longest sequence to the next


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of a step: tokens, rows of logits, sequences, positions of the longest one.
    decode: every sequence has a single new token."""

    n_tokens: int
    n_rows: int
    n_seqs: int
    longest: int
    decode: bool

    def limits(self, of_rows: bool) -> Limits:
        """The limits of a call that counts rows of logits (of_rows) or tokens."""
        n = self.n_rows if of_rows else self.n_tokens
        return Limits(n, self.n_seqs, self.longest, self.decode)


def round_tokens(n: int) -> int:
    """n rounded up to the next bound of tokens, rows or sequences; 0 stays 0."""
    if n <= _SINGLE:
        return 1 << (n - 1).bit_length() if n else 0
    return -(-n // _SINGLE) * _SINGLE


def round_longest(n: int, most: int) -> int:
    """n rounded up to the next bound of the longest sequence, at most `most`."""
    bound = _SHORTEST
    while bound < n:
        bound *= _FURTHER
    return min(bound, most)


def bounds_of(batch: Batch, max_seq_len: int) -> Bounds:
    """The bounds of the step that the batch holds."""
    n_tokens, n_seqs, n_rows = batch.counts.tolist()
    longest = int(batch.positions[:n_tokens].max()) + 1 if n_tokens else 1
    longest = round_longest(longest, max_seq_len)
    if n_tokens == n_seqs:
        n = max(1, round_tokens(n_tokens))
        return Bounds(n, n, n, longest, decode=True)
    n_tokens, n_rows, n_seqs = (round_tokens(n) for n in (n_tokens, n_rows, n_seqs))
    return Bounds(n_tokens, n_rows, n_seqs, longest, decode=False)


def all_bounds(batch: Batch, max_seq_len: int) -> list[Bounds]:
    """Every kind of step that decodes, then steps that read one prompt of 2, 4, 8, ... tokens."""
    longest = [round_longest(1, max_seq_len)]
    while longest[-1] < max_seq_len:
        longest.append(round_longest(longest[-1] + 1, max_seq_len))
    most = min(batch.max_seqs, batch.max_batch_tokens)
    n_decoding = sorted({round_tokens(n) for n in range(1, most + 1)})
    decoding = [Bounds(n, n, n, end, decode=True) for n, end in product(n_decoding, longest)]
    n_reading = [n for n in _powers(batch.max_batch_tokens) if n > 1]
    return decoding + [Bounds(n, 1, 1, end, False) for n, end in product(n_reading, longest)]


def _powers(most: int) -> Iterator[int]:
    """Yields 1, 2, 4, ... below `most`, then the bound of `most`."""
    n = 1
    while n < most:
        yield n
        n *= 2
    yield round_tokens(most)
