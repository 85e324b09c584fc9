"""The token ids that every engine is fed, the same as in `pyroclast.lab.speed.throughput`.

They come from all over the vocabulary, so that embeddings are read from memory as in real text.
Needs NumPy only.
"""

from typing import Any

import numpy as np


def token_ids(seqs: Any, positions: Any, vocab_size: int) -> Any:
    """int64, of the shape that sequence numbers and positions broadcast to."""
    positions, seqs = np.asarray(positions, np.int64), np.asarray(seqs, np.int64)
    return (positions * 7919 + seqs * 104_729 + 1) % vocab_size


def texts(n_seqs: int, begin: int, end: int, vocab_size: int, salt: int = 0) -> Any:
    """int64 (n_seqs, end - begin).  A salt changes the first token of each text, and so whatever an
    engine might remember of the tokens that follow."""
    ids = token_ids(np.arange(n_seqs)[:, None], np.arange(begin, end)[None], vocab_size)
    ids[:, :1] = (ids[:, :1] + salt) % vocab_size
    return ids
