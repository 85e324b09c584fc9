"""What a model needs on the GPU: kernels for all it computes, and memory.

The memory is counted by the code that will ask for it, run once on a memory that only counts.
Neither torch nor Triton is imported unless they can run here.
"""

from __future__ import annotations

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.errors import KernelError, MemoryBudgetError
from pyroclast.families.tensors import is_matrix
from pyroclast.model import device as devices
from pyroclast.model.decoder import Decoder
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.options import LoadOptions
from pyroclast.model.recurrent import recurrent_ops
from pyroclast.model.weights import load_weights
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.memory import CountingMemory
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.triton import device as triton_device

# Ops beside those whose format is that of the weights or of the cache.
_OPS = ("norm", "rope_table", "glu", "quantize", "sample", "residual", "qk_norm", "scale_logits")
_EXPERT_OPS = ("route", "group", "combine")
_STREAM_OPS = ("altup_predict", "altup_correct", "match_rms", "sparse_gate")


def select_kernels(checkpoint: Checkpoint, options: LoadOptions, kv_dtype: str) -> Selection:
    """The GPU's kernels; KernelError if one is missing for this model."""
    tensors = checkpoint.tensors.items()
    matrices = {t.format for name, t in tensors if is_matrix(name) and len(t.shape) == 2}
    stacks = {t.format for name, t in tensors if is_matrix(name) and len(t.shape) == 3}
    if options.compute == "float32":
        matrices, stacks = {"f32"}, {"f32"} if stacks else set()
    with devices.kernel_errors():
        selection = Selection(options.kernels, on_gpu=True)
        more = (*(_EXPERT_OPS if stacks else ()), *recurrent_ops(checkpoint.config))
        more += () if checkpoint.config.layer_input is None else ("layer_input",)
        more += () if checkpoint.config.streams is None else _STREAM_OPS
        for op in (*_OPS, *more, *options.extras.ops):
            selection.variant(op)
        for format in sorted(matrices):
            _check_format(selection, "matmul", format, "weights in")
        for format in sorted(stacks):
            for op in ("expert_gate_up", "expert_down"):
                _check_format(selection, op, format, "experts in")
        for op in ("rope", "attention"):
            _check_format(selection, op, kv_dtype, "a cache in")
    return selection


def count_bytes(
    checkpoint: Checkpoint,
    options: LoadOptions,
    kv_dtype: str,
    max_seq_len: int,
    *,
    n_slots: int,
    max_batch_tokens: int,
    max_seqs: int,
    max_logits: int,
) -> dict[str, int]:
    """Bytes on the GPU of all but the cache."""
    config, memory = checkpoint.config, CountingMemory(on_gpu=True)
    batch = Batch(max_batch_tokens, max_seqs, -(-max_seq_len // BLOCK_SIZE), max_logits, memory)
    n_batch_bytes = memory.n_bytes
    weights = load_weights(checkpoint, memory, float32=options.compute == "float32")
    n_weight_bytes = memory.n_bytes - n_batch_bytes
    Decoder(
        config,
        weights,
        batch,
        memory,
        kv_dtype=kv_dtype,
        n_blocks=0,
        n_slots=n_slots,
        max_seq_len=max_seq_len,
        extras=options.extras,
    )
    SampleArrays(
        vocab_size=config.vocab_size,
        max_seq_len=max_seq_len,
        max_rows=max_logits,
        max_seqs=max_seqs,
        memory=memory,
    )
    return {
        "weights": n_weight_bytes,
        "a step": memory.n_bytes - n_weight_bytes,
        "scratch": triton_device.SCRATCH_BYTES + 4 * triton_device.N_COUNTERS,
    }


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


def fit_blocks(n_bytes: dict[str, int], block: int, wanted: int, *, exactly: bool) -> int:
    """The number of cache blocks of `block` bytes each that fit beside `n_bytes`."""
    size, share = devices.size, devices.GPU_SHARE
    free, total = devices.gpu_memory()
    usable = int(share * free)
    affordable = (usable - sum(n_bytes.values())) // block
    if affordable >= (wanted if exactly else 1):
        return min(wanted, affordable)
    least = wanted if exactly else 1
    parts = [f"{name} {size(n)}" for name, n in n_bytes.items()]
    parts.append(f"{least} cache blocks {size(least * block)}")
    needed = sum(n_bytes.values()) + least * block
    raise MemoryBudgetError(
        f"the model needs {size(needed)} on the GPU ({', '.join(parts)}), but {size(usable)} can "
        f"be had: {share:.0%} of the {size(free)} that are free, of {size(total)}.  A smaller "
        "format (model@q4_0), fewer n_blocks, max_seqs or max_batch_tokens take less; "
        'device="cpu" takes none of it'
    )
