"""The arrays of the op `sample`, allocated once: a step program reads them by address."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.sampling import MAX_LOGIT_BIASES, MAX_LOGPROBS
from pyroclast_kernels.sample import BIAS, OUT, PENALTY, new_rows, scratch_bytes


class SampleArrays:
    """Attributes are named as the parameters of `pyroclast_kernels.sample`, for `max_rows` rows of
    logits of at most `max_seqs` sequences.  n_rows[0] = 0: nothing is sampled.

    In `penalties`, `biases` and `allowed` each sequence of a step has a segment of full size
    (n_penalties, MAX_LOGIT_BIASES, n_words); pages that nobody touches cost no memory."""

    def __init__(
        self, *, vocab_size: int, max_seq_len: int, max_rows: int, max_seqs: int, max_parts: int = 1
    ) -> None:
        self.vocab_size = vocab_size
        self.n_penalties = min(vocab_size, max_seq_len)
        self.n_words = -(-vocab_size // 32)
        self.n_rows = np.zeros(1, np.int64)
        self.rows = new_rows(max_rows)
        self.penalties = np.zeros(max_seqs * self.n_penalties, PENALTY)
        self.biases = np.zeros(max_seqs * MAX_LOGIT_BIASES, BIAS)
        self.allowed = np.zeros(max_seqs * self.n_words, np.uint32)
        self.out = np.zeros(max_rows, OUT)
        self.top_ids = np.zeros((max_rows, MAX_LOGPROBS), np.int32)
        self.top_logprobs = np.zeros((max_rows, MAX_LOGPROBS), np.float32)
        self.scratch = _aligned_bytes(max_parts, scratch_bytes(vocab_size))

    def arguments(self) -> dict[str, Any]:
        """The op's arguments after `logits`, by name and in its order, for logits without gaps."""
        return {
            "n_rows": self.n_rows,
            "rows": self.rows,
            "penalties": self.penalties,
            "biases": self.biases,
            "allowed": self.allowed,
            "out": self.out,
            "top_ids": self.top_ids,
            "top_logprobs": self.top_logprobs,
            "scratch": self.scratch,
            "vocab_size": self.vocab_size,
            "logits_stride": self.vocab_size,
            "max_top": MAX_LOGPROBS,
            "scratch_stride": self.scratch.shape[1],
        }


def _aligned_bytes(n_rows: int, n_bytes: int) -> NDArray[np.uint8]:
    """Zeros (n_rows, n_bytes rounded up to 64), 64-byte aligned."""
    n_bytes = -(-n_bytes // 64) * 64
    raw = np.zeros(n_rows * n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_rows * n_bytes].reshape(n_rows, n_bytes)
