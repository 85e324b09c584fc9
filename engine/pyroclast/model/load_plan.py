"""How a model will lie in memory and run: decided, and counted, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.errors import KernelError, MemoryBudgetError
from pyroclast.model import device as devices
from pyroclast.model.adapters import slot_bytes
from pyroclast.model.extras import StepExtras
from pyroclast.model.gpu_budget import count_bytes, fit_blocks, select_kernels
from pyroclast.model.host_memory import available_bytes
from pyroclast.model.kv_cache import BLOCK_SIZE, automatic_dtype, block_bytes, choose_n_blocks
from pyroclast.model.options import LoadOptions
from pyroclast.model.state_cache import choose_n_slots, state_bytes
from pyroclast.model.supported import check_supported
from pyroclast.model.weights import load_weights
from pyroclast_kernels import features
from pyroclast_kernels.matmul import BLOCK_FORMATS
from pyroclast_kernels.memory import CountingMemory
from pyroclast_kernels.selection import Selection


@dataclass(frozen=True)
class Plan:
    """All that loading needs to know: device is "cpu" or "cuda", note says why; n_bytes by use."""

    device: str
    note: str
    selection: Selection
    compute: str
    kv_dtype: str
    n_threads: int
    max_batch_tokens: int
    max_seqs: int
    max_logits: int
    max_seq_len: int
    n_blocks: int
    n_slots: int
    n_bytes: dict[str, int]
    extras: StepExtras

    @property
    def max_blocks(self) -> int:
        """Cache blocks that one sequence may fill."""
        return -(-self.max_seq_len // BLOCK_SIZE)


def plan(checkpoint: Checkpoint, device: str, options: LoadOptions) -> Plan:
    """The plan for what check_device() gave; with "auto" on the GPU if it can be used, has kernels
    for the model and room for it, else on the CPU.  UnsupportedModelError for layers that no kernel
    takes, KernelError for rules that cannot hold here, MemoryBudgetError for what does not fit."""
    options.check()
    check_supported(checkpoint.config)
    if device == "cuda":
        return _plan_gpu(checkpoint, options, f'device="{device}" was asked for')
    if device == "cpu":
        return _plan_cpu(checkpoint, options, f'device="{device}" was asked for')
    if reason := devices.why_not_chosen(options.threads):
        return _plan_cpu(checkpoint, options, reason)
    try:
        return _plan_gpu(checkpoint, options, "there is a GPU, and the model fits")
    except (KernelError, MemoryBudgetError) as error:
        return _plan_cpu(checkpoint, options, str(error))


def _plan_cpu(checkpoint: Checkpoint, options: LoadOptions, note: str) -> Plan:
    float32, config = options.compute == "float32", checkpoint.config
    with devices.kernel_errors():
        selection, kv_dtype = Selection(options.kernels), options.kv_dtype
        if kv_dtype == "auto":
            kv_dtype = "f32" if float32 else automatic_kv_dtype(checkpoint, selection)
        memory = CountingMemory(on_gpu=False)
        load_weights(checkpoint, memory, float32=float32)
        n_bytes = {"weights": memory.n_bytes}
        if options.adapters is not None:
            n_bytes["adapters"] = slot_bytes(options.adapters, config)
        if options.draft_bytes:
            n_bytes["draft model and its cache"] = options.draft_bytes
        n_slots = choose_n_slots(
            config, options.max_seqs, available_bytes() - sum(n_bytes.values())
        )
        if n_slots:
            n_bytes["states"] = n_slots * state_bytes(config)
        n_blocks = choose_n_blocks(config, kv_dtype, options.n_blocks, n_bytes)
    return Plan(
        device="cpu",
        note=note,
        selection=selection,
        compute=options.compute,
        kv_dtype=kv_dtype,
        n_threads=options.threads or features.n_cpus(),
        **options.limits("cpu"),
        max_seq_len=min(config.max_seq_len, n_blocks * BLOCK_SIZE),
        n_blocks=n_blocks,
        n_slots=n_slots,
        n_bytes=n_bytes | {"cache": n_blocks * block_bytes(config, kv_dtype)},
        extras=options.extras,
    )


def automatic_kv_dtype(checkpoint: Checkpoint, selection: Selection) -> str:
    """What kv_dtype "auto" stands for on the CPU, with the weights as they are stored.  A head that
    predicts further tokens does not count: no bit of a text may depend on whether it is loaded."""
    head = f"layers.{checkpoint.config.n_layers}."
    quantized = any(
        t.format in BLOCK_FORMATS
        for name, t in checkpoint.tensors.items()
        if not name.startswith(head)
    )
    return automatic_dtype(selection, quantized)


def _plan_gpu(checkpoint: Checkpoint, options: LoadOptions, note: str) -> Plan:
    if reason := devices.why_not_cuda():
        raise KernelError(f'device="cuda" cannot be used: {reason}')
    if checkpoint.packed is not None:
        raise KernelError(
            f"{checkpoint.path} is packed for the CPU's kernels; for the GPU, load the file that "
            "it was made from"
        )
    config, n_blocks, limits = checkpoint.config, options.n_blocks, options.limits("cuda")
    kv_dtype = options.kv_dtype
    if kv_dtype == "auto":
        kv_dtype = "f32" if options.compute == "float32" else "f16"
    selection = select_kernels(checkpoint, options, kv_dtype)
    longest = min(config.max_seq_len, (n_blocks or config.max_seq_len) * BLOCK_SIZE)
    n_slots = choose_n_slots(config, options.max_seqs, devices.gpu_memory()[0])
    n_bytes = count_bytes(checkpoint, options, kv_dtype, longest, n_slots=n_slots, **limits)
    each = block_bytes(config, kv_dtype)
    wanted = options.max_seqs * -(-longest // BLOCK_SIZE) if n_blocks is None else n_blocks
    n_blocks = fit_blocks(n_bytes, each, wanted, exactly=n_blocks is not None)
    return Plan(
        device="cuda",
        note=note,
        selection=selection,
        compute=options.compute,
        kv_dtype=kv_dtype,
        n_threads=1,
        **limits,
        max_seq_len=min(config.max_seq_len, n_blocks * BLOCK_SIZE),
        n_blocks=n_blocks,
        n_slots=n_slots,
        n_bytes=n_bytes | {"cache": n_blocks * each},
        extras=options.extras,
    )
