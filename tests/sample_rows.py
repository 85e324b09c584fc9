"""Rows for `sample`, and what its variants make of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast.lab.speed.sample_call import SampleCall, run_sample, usable_variants
from pyroclast_kernels import sample

VARIANTS = usable_variants("sample")
OTHERS = [name for name in VARIANTS if name != "numpy"]


def rows_of(n_rows: int = 1, **params: Any) -> Any:
    rows = sample.new_rows(n_rows)
    for name, value in params.items():
        rows[name] = value
    return rows


def logits_of(*probs: float) -> Any:
    """float32 (1, n): logits whose softmax is probs."""
    with np.errstate(divide="ignore"):
        return np.log(np.array([probs])).astype(np.float32)


def n_kept(variant: str, logits: Any, **params: Any) -> int:
    return int(run_sample(variant, logits, rows_of(**params)).out["n_kept"][0])


def drawn(variant: str, logits: Any, n: int, **params: Any) -> Any:
    """int64 (vocab_size,): how often each token comes up in n draws, one per position."""
    vocab_size = logits.shape[1]
    counts = np.zeros(vocab_size, np.int64)
    chunk = min(n, 8192)
    rows = rows_of(chunk, **params)
    same = np.lib.stride_tricks.as_strided(logits, (chunk, vocab_size), (0, 4))
    call = SampleCall(variant, same, rows)
    for start in range(0, n, chunk):
        rows["position"] = np.arange(start, start + chunk)
        counts += np.bincount(call.run().out["token_id"], minlength=vocab_size)
    return counts


DECK = (0.4, 0.3, 0.15, 0.1, 0.05)
