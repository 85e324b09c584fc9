"""What the kernels of one call leave for one another in scratch memory, and the records' fields.

A call works on a group of rows; row `slot` of a group has

    parts   float64 (n_chunks, PART): sums over each chunk of the row
    state   float64 or int64 (STATE,): what is known of the row as a whole
    bins    int32 (n_chunks, BINS): a histogram of each chunk
    listed  float32 and int32 (LIST,): logits and ids of the row's few best tokens
    top     int64 (n_chunks, max_top): the best tokens of each chunk
    z       float32 (vocab_size,): the adjusted logits, where biases, penalties or a mask make them
            differ from the logits
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.sample import ROW
from pyroclast_kernels.triton import device as triton_device

CHUNK = tl.constexpr(4096)  # logits of one program
# ... and of one step of a program that reads a whole row; the interpreter likes few and large ones.
TILE = tl.constexpr(16384 if triton_device.INTERPRETED else 4096)
BINS = tl.constexpr(256)
LIST = tl.constexpr(16384)  # tokens that may be listed
SHORT_LIST = tl.constexpr(512)  # ... and compared with each other
MAX_VOCAB_SIZE = 1 << 20  # what order.py has room for

# Fields of a ROW, which has 8 bytes for each.
(
    TEMPERATURE, TOP_P, MIN_P, TYPICAL_P, TOP_N_SIGMA,
    REPETITION, PRESENCE, FREQUENCY,
    TOP_K, SEED, POSITION, COMPLETION,
    PENALTY_START, N_PENALTIES, BIAS_START, N_BIASES, ALLOWED_START,
    N_TOP, TARGET, WANT_LOGPROB,
) = (tl.constexpr(i) for i in range(len(ROW.names or ())))  # fmt: skip
ROW_FIELDS = tl.constexpr(ROW.itemsize // 8)
# Fields of an OUT, 4 bytes each.
TOKEN_ID, STATUS, N_KEPT, RANK, IS_GREEDY, LOGPROB = (tl.constexpr(i) for i in range(6))
OUT_FIELDS = tl.constexpr(6)
# Fields of a chunk: of its own logits, then of its adjusted ones.
(
    BAD, RAW_MOST, RAW_FIRST, RAW_SUM,
    MOST, FIRST, SUM, N, MEAN, SQUARES,
    PLACE,
) = (tl.constexpr(i) for i in range(11))  # fmt: skip
PART = tl.constexpr(12)
# Fields of a row's state, the first six int64.
(
    STAGE, CUT, NEAR_CUT, LAST_BIN, N_LISTED, COUNT_CUT,
    MAXIMUM, LOWEST, CENTRE, RAW_MAXIMUM, RAW_BEST, LOG_TOTAL,
) = (tl.constexpr(i) for i in range(12))  # fmt: skip
STATE = tl.constexpr(12)
# What a row still needs, as STAGE says.
DONE, TO_DRAW, TO_COUNT, TO_LIST, TO_SELECT = (tl.constexpr(i) for i in range(5))


class Memory(NamedTuple):
    """The parts of scratch memory, for max_rows rows at a time."""

    max_rows: int
    parts: torch.Tensor
    state: torch.Tensor
    bins: torch.Tensor
    list_z: torch.Tensor
    list_ids: torch.Tensor
    top: torch.Tensor
    z: torch.Tensor
    z_stride: int


def _bytes_of_a_row(vocab_size: int, max_top: int) -> dict[str, int]:
    n_chunks = triton.cdiv(vocab_size, CHUNK.value)
    sizes = {
        "parts": 8 * n_chunks * PART.value,
        "state": 8 * STATE.value,
        "bins": 4 * n_chunks * BINS.value,
        "list_z": 4 * LIST.value,
        "list_ids": 4 * LIST.value,
        "top": 8 * n_chunks * max_top,
        "z": 4 * vocab_size,
    }
    return {name: triton.cdiv(size, 64) * 64 for name, size in sizes.items()}


_DTYPES = {
    "parts": torch.float64, "state": torch.float64, "bins": torch.int32, "list_z": torch.float32,
    "list_ids": torch.int32, "top": torch.int64, "z": torch.float32,
}  # fmt: skip


def memory_for(n_rows: int, vocab_size: int, max_top: int) -> Memory:
    """Scratch memory for as many rows as it has room for, n_rows at most; KernelError if that is
    none."""
    scratch, counters = triton_device.scratch(), triton_device.counters()
    sizes = _bytes_of_a_row(vocab_size, max_top)
    max_rows = min(n_rows, counters.numel(), scratch.numel() // sum(sizes.values()))
    if max_rows < 1 or vocab_size > MAX_VOCAB_SIZE:
        raise KernelError(
            f"sample=triton takes {sum(sizes.values())} bytes of scratch memory for a row of "
            f"{vocab_size} tokens, of which there are {scratch.numel()}, and at most "
            f"{MAX_VOCAB_SIZE} tokens; sample=numpy on the CPU has no such limit"
        )
    begin, views = 0, {}
    for name, size in sizes.items():
        views[name] = scratch[begin : begin + max_rows * size].view(_DTYPES[name])
        begin += max_rows * size
    return Memory(max_rows, z_stride=sizes["z"] // 4, **views)
