"""A loaded model: its weights and cache on a device, and the step program that runs there.

What a step computes is said in decoder.py; here is where, in what memory, and how it is replayed.
Knows nothing of text, requests or sampling parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.errors import ClosedError, KernelError
from pyroclast.families.config import ModelConfig
from pyroclast.model import device as devices
from pyroclast.model.decoder import Decoder
from pyroclast.model.hidden import HiddenLayer
from pyroclast.model.kv_cache import BLOCK_SIZE, DTYPES, automatic_dtype, choose_n_blocks
from pyroclast.model.supported import check_supported
from pyroclast.model.weights import load_weights
from pyroclast_kernels import features, timeline
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.matmul import BLOCK_FORMATS
from pyroclast_kernels.memory import HostMemory, Memory
from pyroclast_kernels.program import Call, Program, Recorder, make_executor
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.tables import DEFAULTS


class Model:
    """A loaded model and its one step: fill `batch`, call forward(), read `logits`.

    checkpoint may be closed afterwards.  device is "cpu" or "cuda".  compute="float32" dequantizes
    the weights and keeps float32 throughout; "auto" computes with the weights as they are stored.
    kv_dtype is "auto", "f32", "f16", "bf16" or "q8_0"; auto is f32 in float32 mode, else f16, or on
    a CPU that multiplies it bf16.  kernels are selection rules; threads None takes what the machine
    offers, and means nothing on the GPU.  hidden_layers are the states that every step keeps beside
    the logits: see `hidden`.  Raises KernelError for rules that cannot hold here,
    UnsupportedModelError for shapes that no kernel takes, MemoryBudgetError for what does not fit.
    """

    block_size = BLOCK_SIZE

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        device_note: str = "",
        kernels: str | None = None,
        threads: int | None = None,
        compute: str = "auto",
        kv_dtype: str = "auto",
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        max_logits: int = 64,
        n_blocks: int | None = None,
        hidden_layers: Sequence[HiddenLayer] = (),
        on_layer: Callable[[int], None] = lambda _: None,
    ) -> None:
        config = checkpoint.config
        _check(config, compute, kv_dtype, threads)
        self.config, self.compute = config, compute
        self.device, self.device_note = device, device_note
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        self.max_logits, self._hidden_layers = max_logits, hidden_layers
        try:
            if device == "cuda":
                self._take_gpu(checkpoint, kernels, kv_dtype, n_blocks)
            else:
                self._take_cpu(checkpoint, kernels, kv_dtype, n_blocks, threads)
            self.max_seq_len = min(config.max_seq_len, self.n_blocks * BLOCK_SIZE)
            max_blocks = -(-self.max_seq_len // BLOCK_SIZE)
            self.batch = Batch(max_batch_tokens, max_seqs, max_blocks, max_logits, self.memory)
            float32 = compute == "float32"
            weights = load_weights(checkpoint, self.memory, float32=float32, on_layer=on_layer)
            self.memory.loaded()
            self._decoder = Decoder(
                config,
                weights,
                self.batch,
                self.memory,
                kv_dtype=self.kv_dtype,
                n_blocks=self.n_blocks,
                hidden_layers=hidden_layers,
            )
            self._weights, self._cache = weights, self._decoder.cache
            recorder = Recorder(self._selection)
            self._decoder.record_step(recorder)
        except KernelLibraryError as error:
            raise KernelError(str(error)) from error
        except RuntimeError as error:
            if device != "cuda":
                raise
            raise KernelError(f"the GPU failed while the model was loaded: {error}") from error
        self._calls = recorder.calls
        self._program: Program | None = self._make_program(recorder.calls)
        self._sampling_program: Program | None = None
        self._fetched: NDArray[np.float32] | None = None  # logits of a GPU
        self._is_fetched = False

    def _take_cpu(
        self,
        checkpoint: Checkpoint,
        kernels: str | None,
        kv_dtype: str,
        n_blocks: int | None,
        threads: int | None,
    ) -> None:
        self._selection = Selection(kernels)
        if kv_dtype == "auto":
            quantized = any(t.format in BLOCK_FORMATS for t in checkpoint.tensors.values())
            float32 = self.compute == "float32"
            kv_dtype = "f32" if float32 else automatic_dtype(self._selection, quantized)
        self.kv_dtype = kv_dtype
        self.n_threads = threads or features.n_cpus()
        self.n_blocks = choose_n_blocks(checkpoint.config, kv_dtype, n_blocks)
        self._executor = make_executor(self.n_threads)
        if self._executor is None:
            self.n_threads = 1
        self.memory: Memory = HostMemory(self._selection, self._executor)

    def _take_gpu(
        self, checkpoint: Checkpoint, kernels: str | None, kv_dtype: str, n_blocks: int | None
    ) -> None:
        plan = devices.plan(
            checkpoint,
            kernels=kernels,
            compute=self.compute,
            kv_dtype=kv_dtype,
            max_batch_tokens=self.max_batch_tokens,
            max_seqs=self.max_seqs,
            max_logits=self.max_logits,
            n_blocks=n_blocks,
            hidden_layers=self._hidden_layers,
        )
        from pyroclast_kernels.gpu.memory import DeviceMemory

        self._selection, self.kv_dtype, self.n_blocks = plan.selection, plan.kv_dtype, plan.n_blocks
        self.n_threads, self._executor = 1, None
        self.memory = DeviceMemory()

    def _make_program(self, calls: list[Call]) -> Program:
        if isinstance(self.memory, HostMemory):
            return Program(calls, self._executor)
        from pyroclast_kernels.gpu.memory import DeviceMemory
        from pyroclast_kernels.gpu.program import DeviceProgram

        assert isinstance(self.memory, DeviceMemory), "there is no third one"
        tuned = self._selection.table != DEFAULTS
        return DeviceProgram(calls, self.memory, self.batch, self.max_seq_len, tuned=tuned)

    # ---- what callers see ------------------------------------------------------------------

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 (max_logits, vocab_size); after forward() the first batch.n_logits rows hold.
        From a GPU they are fetched at the first look after a step."""
        if not self.memory.on_gpu:
            return self._decoder.work.logits  # type: ignore[no-any-return]
        if self._fetched is None:
            self._fetched = np.zeros((self.max_logits, self.config.vocab_size), np.float32)
        if not self._is_fetched:
            n_rows = self.batch.n_logits
            self._fetched[:n_rows] = self.memory.to_host(self._decoder.work.logits, n_rows)
            self._is_fetched = True
        return self._fetched

    @property
    def hidden(self) -> NDArray[np.float32]:
        """float32 (len(hidden_layers), max_logits, d_model): the state after layer i, or what the
        final norm makes of the last; after forward() the first batch.n_logits rows of each hold."""
        return self._decoder.hidden.read()

    @property
    def kernels(self) -> dict[str, str]:
        """The variant that runs for each "op.format"; "a+b" where a tuned table has several."""
        return dict(self._selection.resolved)

    @property
    def table(self) -> str:
        """The tuned table that chose where no rule did, or "defaults"."""
        return self._selection.table

    @property
    def weight_bytes(self) -> int:
        """Weight bytes that one decode step reads."""
        return self._weights.step_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole key-value cache."""
        return self._cache.n_bytes

    @property
    def native_seconds(self) -> float:
        """Seconds spent inside steps so far; the rest of a caller's time is Python's."""
        programs = (self._program, self._sampling_program)
        return sum(program.native_seconds for program in programs if program is not None)

    def attach_sampler(self, **arguments: Any) -> None:
        """Lets forward(sample=True) end with the op `sample`: its arguments by name, logits
        excepted, as arrays that the caller refills."""
        recorder = Recorder(self._selection)
        try:
            recorder.call("sample", logits=self._decoder.work.logits, **arguments)
        except KernelLibraryError as error:
            raise KernelError(str(error)) from error
        self._sampling_program = self._make_program(self._calls + recorder.calls)

    @property
    def n_warm_ups(self) -> int:
        """How many kinds of step `warm_up` prepares; 0 on the CPU, where that is not needed."""
        return self.program(sample=True).n_warm_ups

    def warm_up(self, show: Callable[[int], None] = lambda _: None) -> None:
        """Compiles kernels and captures graphs before the first request, the sampler attached."""
        try:
            self.program(sample=True).warm_up(show)
        except KernelLibraryError as error:
            raise KernelError(str(error)) from error

    def forward(self, sample: bool = False) -> None:
        """One step over what `batch` holds: writes the cache and the logits (and samples)."""
        try:
            self.program(sample).run()
        except KernelLibraryError as error:  # the GPU's driver
            raise KernelError(str(error)) from error
        self._is_fetched = False

    def program(self, sample: bool = False) -> Program:
        """The recorded step, with or without the sampler at its end: to trace it, or to replay its
        calls by themselves."""
        program = self._sampling_program if sample else self._program
        if program is None:
            raise ClosedError("the model is closed" if self._program is None else "no sampler")
        return program

    def profile(self) -> list[tuple[str, str, str, float]]:
        """Runs one step; (label, op.format, variant, microseconds) of each call, in order."""
        program = self.program()
        if isinstance(self.memory, HostMemory):
            times_us = timeline.profile(program)
        else:
            from pyroclast_kernels.gpu.program import DeviceProgram

            assert isinstance(program, DeviceProgram), "there is no third one"
            times_us = program.profile()
        return [
            (c.label, f"{c.kernel.op}.{c.kernel.format}", c.kernel.variant, microseconds)
            for c, microseconds in zip(self._calls, times_us, strict=True)
        ]

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears cache blocks that may hold a NaN."""
        self._cache.zero_blocks(block_ids)

    def find_non_finite(self) -> str:
        """Where a NaN or an infinity first appears when the step in `batch` is run once more:
        "layer 3 (matmul)", say; empty if it does not."""
        if self._program is None:
            raise ClosedError("the model is closed")
        for i, call in enumerate(self._calls):
            self._program.run_one(i)
            n_rows = int(call.arguments["n_tokens"][0])
            for name in ("out", "out_q8", "qkv"):
                array = call.arguments.get(name)
                if array is None or (name == "qkv" and call.kernel.op == "attention"):
                    continue
                found = self.memory.to_host(array, n_rows)
                if not np.isfinite(found["scale"] if name == "out_q8" else found).all():
                    return f"{call.label} ({call.kernel.op})"
        return ""

    def close(self) -> None:
        """Frees threads, weights, cache and graphs; harmless when repeated."""
        if self._program is None:
            return
        self._program = self._sampling_program = self._fetched = None
        self._calls = []
        del self._weights, self._cache, self._decoder, self._executor
        self.memory.close()


def _check(config: ModelConfig, compute: str, kv_dtype: str, threads: int | None) -> None:
    """Options and shapes, before anything is read."""
    if compute not in ("auto", "float32"):
        raise KernelError(f"compute must be 'auto' or 'float32', got {compute!r}")
    if kv_dtype not in ("auto", *DTYPES):
        raise KernelError(f"kv_dtype must be 'auto', {', '.join(DTYPES)}, got {kv_dtype!r}")
    if threads is not None and not 1 <= threads <= 1024:
        raise KernelError(f"threads must be between 1 and 1024, got {threads}")
    check_supported(config)
