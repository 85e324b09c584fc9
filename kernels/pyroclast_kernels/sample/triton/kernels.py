"""`sample` in Triton: what is launched, and for how many rows at a time.

Every row is split into chunks of 4096 logits, a program each.  The host knows nothing of the rows:
every kernel is launched, and the programs of a row that does not need it end at once.

    survey   (survey.py)  adjusts, checks and sums; greedy rows and those that nothing cuts
                                 are done after it
    count    (list.py)    top_k or top_p: how many tokens lie how far below the maximum
    listing  (list.py)    ... lists the few that may be kept, sorts them, and draws
    select   (select.py)  ... finds the cut where they are many, or typical_p wants its own
    draw     (draw.py)    draws where a cut is known: min_p, top_n_sigma, and after select
    report   (report.py)  log-probabilities, ranks, the likeliest tokens

So a row's bits depend on its logits and parameters alone: sums are over chunks, in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton

from pyroclast_kernels.sample.triton.draw import draw
from pyroclast_kernels.sample.triton.list import count, listing
from pyroclast_kernels.sample.triton.memory import CHUNK, Memory, memory_for
from pyroclast_kernels.sample.triton.report import report
from pyroclast_kernels.sample.triton.select import select
from pyroclast_kernels.sample.triton.survey import survey
from pyroclast_kernels.triton import device as triton_device

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits

# 16 where 8 would take so many registers that no more warps ran at once.
_WARPS = {survey: 16, count: 8, listing: 16, select: 16, draw: 16, report: 8}


def launch_sample(
    limits: Limits,
    logits: torch.Tensor,
    n_rows: torch.Tensor,
    rows: torch.Tensor,
    penalties: torch.Tensor,
    biases: torch.Tensor,
    allowed: torch.Tensor,
    out: torch.Tensor,
    top_ids: torch.Tensor,
    top_logprobs: torch.Tensor,
    scratch: torch.Tensor,
    vocab_size: int,
    logits_stride: int,
    max_top: int,
    scratch_stride: int,
) -> None:
    """reference.sample of tensors; records are uint8 with a last axis of their bytes.  KernelError
    if a row's vocabulary is too large for the scratch memory, which is triton_device's."""
    del scratch, scratch_stride  # the CPU's
    memory = memory_for(max(1, limits.n_tokens), vocab_size, max_top)
    given = {
        "logits": logits,
        "n_rows": n_rows,
        "rows": rows.view(torch.int64),
        "rows_f": rows.view(torch.float64),
        "penalties": penalties.view(torch.int32),
        "biases": biases.view(torch.int32),
        "allowed": allowed,
        "out": out.view(torch.int32),
        "out_f": out.view(torch.float32),
        "top_ids": top_ids,
        "top_logprobs": top_logprobs,
        "vocab_size": vocab_size,
        "logits_stride": logits_stride,
        "max_top": max_top,
    }
    for first_row in range(0, limits.n_tokens, memory.max_rows):
        n = min(memory.max_rows, limits.n_tokens - first_row)
        _launch_group(memory, n, given | {"first_row": first_row})


def _launch_group(memory: Memory, n_rows: int, given: dict[str, Any]) -> None:
    """The kernels for n_rows rows from first_row on."""
    n_chunks = triton.cdiv(given["vocab_size"], CHUNK.value)
    given |= memory._asdict() | {
        "state": memory.state.view(torch.int64),
        "state_f": memory.state,
        "counters": triton_device.counters(),
        "n_chunks": n_chunks,
        "n_lanes": triton.next_power_of_2(n_chunks),
        "top_lanes": triton.next_power_of_2(max(1, given["max_top"])),
    }
    for kernel, n_warps in _WARPS.items():  # in the order of the table above
        grid = (n_rows,) if kernel is select else (n_rows, n_chunks)
        kernel[grid](**{name: given[name] for name in kernel.arg_names}, num_warps=n_warps)
