"""Which device a model runs on, and whether it fits there: decided before anything is loaded.

What a model takes on the GPU is counted by the code that will ask for it, run once on a memory that
only counts.  Neither torch nor Triton is imported unless they can run here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.errors import KernelError, MemoryBudgetError, RequestError
from pyroclast.model.decoder import Decoder
from pyroclast.model.hidden import HiddenLayer
from pyroclast.model.kv_cache import BLOCK_SIZE, available_bytes, block_bytes
from pyroclast.model.weights import load_weights
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.memory import CountingMemory
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.triton import device as triton_device

DEVICES = ("auto", "cuda", "cpu")
SETTING = "PYROCLAST_DEVICE"  # of the environment: what "auto" stands for
# Of the memory that is free: graphs, compiled kernels and whoever else uses the GPU want some, too.
GPU_SHARE = 0.9
# Tokens of one step by default.  A GPU reads its weights once a step and wants many tokens for it.
MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 2048}
# Beside those whose format is that of the weights or of the cache.
_OPS = ("norm", "rope_table", "swiglu", "quantize", "sample")


@dataclass(frozen=True)
class Plan:
    """How a model will lie on the GPU: kernels, format and blocks of the cache, bytes by use."""

    selection: Selection
    kv_dtype: str
    n_blocks: int
    n_bytes: dict[str, int]


def check_device(device: str) -> str:
    """The device that is asked for, "auto" replaced by what the environment says; KernelError
    lists those that there are."""
    if device == "auto":
        device = os.environ.get(SETTING, "") or "auto"
    if device not in DEVICES:
        known = ", ".join(map(repr, DEVICES))
        raise KernelError(f"device must be one of {known}, got {device!r}")
    return device


def why_not_cuda() -> str:
    """Why no model can run on a GPU here; empty where one can, be it in Triton's interpreter."""
    return triton_device.why_not()


def why_not_chosen(threads: int | None = None) -> str:
    """Why "auto" does not even try the GPU; empty where it does."""
    if reason := why_not_cuda():
        return reason
    if triton_device.INTERPRETED:
        return "TRITON_INTERPRET=1: the CPU's own kernels are faster than Triton's interpreter"
    return "" if threads is None else f"threads={threads} asks for the CPU"


def choose(
    device: str, checkpoint: Checkpoint, threads: int | None, **options: Any
) -> tuple[str, str]:
    """("cuda" or "cpu", why) for what check_device() gave: with "auto" the GPU if it can be used,
    has kernels for the model and room for it.  options: those of `plan`."""
    if device != "auto":
        return device, f'device="{device}" was asked for'
    if reason := why_not_chosen(threads):
        return "cpu", reason
    try:
        plan(checkpoint, **options)
    except (KernelError, MemoryBudgetError) as error:
        return "cpu", str(error)
    return "cuda", "there is a GPU, and the model fits"


def plan(
    checkpoint: Checkpoint,
    *,
    kernels: str | None,
    compute: str,
    kv_dtype: str,
    max_batch_tokens: int,
    max_seqs: int,
    max_logits: int,
    n_blocks: int | None,
    hidden_layers: Sequence[HiddenLayer] = (),
) -> Plan:
    """How a model would lie on the GPU.  kv_dtype "auto" is f16, or f32 in float32 mode; n_blocks
    None takes what memory there is, up to max_seqs full contexts.  KernelError if there is no GPU
    or it has no kernel for something, MemoryBudgetError with the numbers if it has no room."""
    if reason := why_not_cuda():
        raise KernelError(f'device="cuda" cannot be used: {reason}')
    if n_blocks is not None and n_blocks < 1:
        raise RequestError(f"n_blocks must be at least 1, got {n_blocks}")
    float32, config = compute == "float32", checkpoint.config
    if kv_dtype == "auto":
        kv_dtype = "f32" if float32 else "f16"
    matrices = {t.format for t in checkpoint.tensors.values() if len(t.shape) == 2}
    try:
        selection = Selection(kernels, on_gpu=True)
        for op in _OPS:
            selection.variant(op)
        for format in sorted({"f32"} if float32 else matrices):
            _check_format(selection, "matmul", format, "weights in")
        for op in ("rope", "attention"):
            _check_format(selection, op, kv_dtype, "a cache in")
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error
    max_seq_len = min(config.max_seq_len, (n_blocks or config.max_seq_len) * BLOCK_SIZE)
    max_blocks = -(-max_seq_len // BLOCK_SIZE)
    memory = CountingMemory()
    batch = Batch(max_batch_tokens, max_seqs, max_blocks, max_logits, memory)
    n_bytes = {"weights": -memory.n_bytes}
    weights = load_weights(checkpoint, memory, float32=float32)
    n_bytes["weights"] += memory.n_bytes
    Decoder(
        config, weights, batch, memory, kv_dtype=kv_dtype, n_blocks=0, hidden_layers=hidden_layers
    )
    SampleArrays(
        vocab_size=config.vocab_size,
        max_seq_len=max_seq_len,
        max_rows=max_logits,
        max_seqs=max_seqs,
        memory=memory,
    )
    n_bytes["a step"] = memory.n_bytes - n_bytes["weights"]
    n_bytes["scratch"] = triton_device.SCRATCH_BYTES + 4 * triton_device.N_COUNTERS
    each = block_bytes(config, kv_dtype)
    wanted = max_seqs * max_blocks if n_blocks is None else n_blocks
    n_blocks = _fit(n_bytes, each, wanted, exactly=n_blocks is not None)
    return Plan(selection, kv_dtype, n_blocks, n_bytes | {"cache": n_blocks * each})


def _check_format(selection: Selection, op: str, format: str, what: str) -> None:
    """KernelError that lists the formats with a kernel on the GPU, if this one has none."""
    try:
        selection.variant(op, format)
    except KernelLibraryError as error:
        known = [other for other in get_op(op).formats if _has(selection, op, other)]
        if not known:
            raise
        raise KernelError(
            f"the GPU has no kernel of {op} for {what} {format}; it has {', '.join(known)}"
        ) from error


def _has(selection: Selection, op: str, format: str) -> bool:
    try:
        selection.variant(op, format)
    except KernelLibraryError:
        return False
    return True


def gpu_memory() -> tuple[int, int]:
    """Bytes of the GPU that are free, and all it has; of the host, in Triton's interpreter.
    KernelError if the driver fails."""
    if triton_device.INTERPRETED:
        return available_bytes(), available_bytes()
    from pyroclast_kernels.gpu.memory import free_bytes

    try:
        return free_bytes()
    except RuntimeError as error:
        raise KernelError(f"the GPU's driver failed: {error}") from error


def _fit(n_bytes: dict[str, int], block: int, wanted: int, *, exactly: bool) -> int:
    """The number of cache blocks of `block` bytes each that fit beside `n_bytes`."""
    free, total = gpu_memory()
    usable = int(GPU_SHARE * free)
    affordable = (usable - sum(n_bytes.values())) // block
    if affordable >= (wanted if exactly else 1):
        return min(wanted, affordable)
    least = wanted if exactly else 1
    parts = [f"{name} {size(n)}" for name, n in n_bytes.items()]
    parts.append(f"{least} cache blocks {size(least * block)}")
    needed = sum(n_bytes.values()) + least * block
    raise MemoryBudgetError(
        f"the model needs {size(needed)} on the GPU ({', '.join(parts)}), but {size(usable)} can "
        f"be had: {GPU_SHARE:.0%} of the {size(free)} that are free, of {size(total)}.  A smaller "
        "format (model@q4_0), fewer n_blocks, max_seqs or max_batch_tokens take less; "
        'device="cpu" takes none of it'
    )


def size(n_bytes: int) -> str:
    """For people: 1.50 GiB, 12 MiB, 4 KiB."""
    if n_bytes >= 1 << 30:
        return f"{n_bytes / 2**30:.2f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes >= 1 << 20 else f"{-(-n_bytes // 1024)} KiB"
