"""The launch of attention: tile sizes, grids, and the kernels of decode and prefill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroclast_kernels.attention.cache import BLOCK_SIZE
from pyroclast_kernels.attention.triton.decode import (
    MAX_HEADS,
    MAX_SPLITS,
    MIN_SPLIT,
    decode_kernel,
)
from pyroclast_kernels.attention.triton.prefill import prefill_kernel
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Launch, Limits

if TYPE_CHECKING:
    import torch


# Of the loop over positions: two ahead in looking up blocks, two in fetching what they hold.
_STAGES = 5


@dataclass(frozen=True)
class _Model:
    """The sizes that the model and the format of its cache fix for every launch."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_stride: int
    format: str

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.n_heads // self.n_kv_heads

    @property
    def block_d(self) -> int:
        """head_dim as the power of two that tiles are made of; a product sums over at least 16
        numbers, and takes two of bfloat16 out of each word."""
        return max(32 if self.format == "bf16" else 16, 1 << (self.head_dim - 1).bit_length())

    @property
    def block_n(self) -> int:
        """Positions of a step: 16 KiB of keys and as much of values whatever the head, so that
        three programs with two steps under way fit into a multiprocessor's shared memory."""
        cells = 4096 if self.format == "f32" else 8192
        return min(max(cells // self.block_d, BLOCK_SIZE), 128)

    @property
    def constants(self) -> dict[str, Any]:
        """The compile-time constants of both kernels."""
        return {
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "block_d": self.block_d,
            "stride": self.value_stride,
            "block_n": self.block_n,
            "dot_type": triton_device.dot_dtype(self.format),
            "in_pairs": self.format == "bf16",
        }


def launch_attention(format: str) -> Launch:
    """The launch for a cache of that format."""

    def launch(
        limits: Limits,
        n_seqs: torch.Tensor,
        seq_starts: torch.Tensor,
        positions: torch.Tensor,
        block_tables: torch.Tensor,
        qkv: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        out: torch.Tensor | None,
        out_q8: torch.Tensor | None,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        max_blocks: int,
        value_stride: int,
        window: int,
        scale: float,
        softcap: float,
        sinks: torch.Tensor | None,
        rope: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """reference.attention of tensors; out float32 or bfloat16.  scratch and counters of the
        contract are sized for a CPU's threads and are not used.  rope: the arguments of
        reference.rope, if a decoding step leaves the rotation to this kernel."""
        batch = {
            "n_seqs": n_seqs,
            "seq_starts": seq_starts,
            "positions": positions,
            "block_tables": block_tables,
            "qkv": qkv,
            "k_cache": _words(k_cache),
            "v_cache": _words(v_cache),
            "out": out,
            "out_q8": out_q8,
            "max_blocks": max_blocks,
            "window": window,
            "sinks": sinks,
            "scale": math.log2(math.e) * (softcap if softcap > 0 else scale),
            "inner": scale / softcap if softcap > 0 else 1.0,
            "capped": softcap > 0,
        }
        model = _Model(n_heads, n_kv_heads, head_dim, value_stride, format)
        if not limits.decode:
            _prefill(limits, model, batch)
        _decode(limits, model, batch | _rotation(rope))

    return launch


def _rotation(rope: dict[str, Any] | None) -> dict[str, Any]:
    """What decode takes of rope's arguments; without them, that rope has run."""
    if rope is None:
        rope = {"table": None, "rotary_dim": 0, "temperature": 0.0, "temperature_length": 1}
    return {
        "angles": rope["table"],
        "rotary_dim": rope["rotary_dim"],
        "temperature": rope["temperature"],
        "temperature_length": rope["temperature_length"],
        "grows": rope["temperature"] > 0,
    }


def _words(cells: torch.Tensor) -> torch.Tensor:
    """The cache as its tiles are read: bfloat16 in pairs of 32 bits."""
    import torch

    return cells.view(torch.int32) if cells.dtype == torch.bfloat16 else cells


def _prefill(limits: Limits, model: _Model, batch: dict[str, Any]) -> None:
    """128 rows are two of Hopper's matrix instructions high; those of float32, which no such
    instruction multiplies, are kept in registers."""
    block_m = 32 if model.format == "f32" else 128
    heads = min(model.group, block_m)
    tokens = block_m // heads
    grid = (limits.n_tokens // tokens + limits.n_seqs, model.n_kv_heads * -(-model.group // heads))
    prefill_kernel[grid](
        **batch,
        **model.constants,
        tile_heads=heads,
        tile_tokens=tokens,
        block_m=block_m,
        windowed=batch["window"] > 0,
        stages=3 if model.format == "f32" else _STAGES,
        num_warps=8,
    )


def _decode(limits: Limits, model: _Model, batch: dict[str, Any]) -> None:
    """Launches decode for as many sequences at a time as scratch and counters hold: all of them,
    except in large batches of long sequences.  Kernels run one after the other, so they share
    both."""
    heads = min(model.group, MAX_HEADS)
    programs = model.n_kv_heads * -(-model.group // heads)
    window = batch["window"]
    longest = min(limits.longest, window + model.block_n) if window > 0 else limits.longest
    splits = min(MAX_SPLITS.value, -(-longest // MIN_SPLIT.value))
    scratch, counters = triton_device.scratch(), triton_device.counters()
    seq_bytes = programs * splits * heads * (model.head_dim + 2) * 4
    most = min(scratch.numel() // seq_bytes, counters.numel() // programs)
    if most == 0:
        raise KernelError(
            f"attention: the partial sums of one token of {model.n_heads} heads take {seq_bytes} "
            f"bytes, scratch has {scratch.numel()}"
        )
    block_r = 1 << (heads - 1).bit_length()
    for first in range(0, limits.n_seqs, most):
        decode_kernel[(min(most, limits.n_seqs - first), programs, splits)](
            **batch,
            **model.constants,
            scratch=scratch.view(batch["qkv"].dtype),
            counters=counters,
            first_seq=first,
            tile_heads=heads,
            block_r=block_r,
            chunk=max(1, min(MAX_SPLITS.value, 8192 // (block_r * model.block_d))),
            stages=_STAGES,
            num_warps=8 if model.format == "f32" else 4,
        )
