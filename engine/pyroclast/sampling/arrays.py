"""The arrays of the op `sample`, allocated once: a step program reads them by address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.sampling.param_checks import MAX_LOGIT_BIASES, MAX_LOGPROBS
from pyroclast_kernels.memory import HostMemory
from pyroclast_kernels.sample import BIAS, OUT, PENALTY, ROW, new_rows, scratch_bytes

if TYPE_CHECKING:
    from pyroclast_kernels.memory import Memory


class SampleArrays:
    """The parameters of `pyroclast_kernels.sample` under their names, for `max_rows` rows of logits
    of at most `max_seqs` requests.  n_rows[0] = 0: nothing is sampled.

    `penalties`, `biases` and `allowed` have `max_seqs` segments of full size (n_penalties,
    MAX_LOGIT_BIASES, n_words): one for each request of a step; those left over are for drafts.  On
    the host, untouched pages cost no memory.  Code that changes a part must tell the memory."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        max_rows: int,
        max_seqs: int,
        max_parts: int = 1,
        memory: Memory | None = None,
    ) -> None:
        self.memory = memory = memory or HostMemory()
        self.vocab_size = vocab_size
        self.n_penalties = min(vocab_size, max_seq_len)
        self.n_words = -(-vocab_size // 32)
        self.n_rows = memory.inputs((1,), np.int64)
        self.rows = memory.inputs((max_rows,), ROW)
        self.rows[:] = new_rows(max_rows)
        self.penalties = memory.table((max_seqs * self.n_penalties,), PENALTY)
        self.biases = memory.table((max_seqs * MAX_LOGIT_BIASES,), BIAS)
        self.allowed = memory.table((max_seqs * self.n_words,), np.uint32)
        self.out = memory.outputs((max_rows,), OUT)
        self.top_ids = memory.outputs((max_rows, MAX_LOGPROBS), np.int32, rarely=True)
        self.top_logprobs = memory.outputs((max_rows, MAX_LOGPROBS), np.float32, rarely=True)
        if memory.on_gpu:  # GPU kernels have their own scratch memory
            self.scratch = memory.zeros((1, 64), np.uint8)
        else:
            self.scratch = _aligned_bytes(max_parts, scratch_bytes(vocab_size))

    def close(self) -> None:
        """Lets go of the arrays that grow with the vocabulary and the context."""
        self.penalties, self.biases = np.zeros(0, PENALTY), np.zeros(0, BIAS)
        self.allowed, self.scratch = np.zeros(0, np.uint32), np.zeros((0, 0), np.uint8)

    def on_host(self) -> dict[str, Any]:
        """`arguments` for a CPU kernel, even if the arrays are otherwise read on the GPU."""
        if not self.memory.on_gpu:
            return self.arguments()
        scratch = _aligned_bytes(1, scratch_bytes(self.vocab_size))
        return self.arguments() | {"scratch": scratch, "scratch_stride": scratch.shape[1]}

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
