"""The token ids that every engine is fed: all over the vocabulary, so that embeddings come from
memory as they do in text; the same as those of
`pyroclast.lab.speed.throughput`.  Needs NumPy only."""

from typing import Any

import numpy as np


def token_ids(seqs: Any, positions: Any, vocab_size: int) -> Any:
    """int64, of the shape that sequence numbers and positions broadcast to."""
    positions, seqs = np.asarray(positions, np.int64), np.asarray(seqs, np.int64)
    return (positions * 7919 + seqs * 104_729 + 1) % vocab_size


def texts(n_seqs: int, begin: int, end: int, vocab_size: int, salt: int = 0) -> Any:
    """int64 (n_seqs, end - begin); a salt changes the first token of each, and with it all that
    an engine might remember of what follows."""
    ids = token_ids(np.arange(n_seqs)[:, None], np.arange(begin, end)[None], vocab_size)
    ids[:, :1] = (ids[:, :1] + salt) % vocab_size
    return ids
