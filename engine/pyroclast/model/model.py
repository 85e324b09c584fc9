"""A loaded model: its weights and cache on a device, and the step program that runs there.

What a step computes is said in decoder.py; here is where, in what memory, and how it is replayed.
Knows nothing of text, requests or sampling parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.errors import ClosedError, KernelError
from pyroclast.model.adapters import Adapters
from pyroclast.model.cache_identity import CacheIdentity, kernels_digest, model_digest
from pyroclast.model.closed import CLOSED
from pyroclast.model.decoder import Decoder
from pyroclast.model.device import kernel_errors
from pyroclast.model.draft_head import draft_head
from pyroclast.model.host_memory import resource_errors
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.load_plan import Plan, plan
from pyroclast.model.make_memory import make_memory
from pyroclast.model.non_finite import first_non_finite
from pyroclast.model.options import LoadOptions
from pyroclast.model.packer import Place
from pyroclast.model.step_times import step_times
from pyroclast.model.update import Prepared, prepare
from pyroclast.model.weights import load_weights
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.memory import HostMemory
from pyroclast_kernels.program import OpCall, Program, Recorder, make_executor
from pyroclast_kernels.tables import DEFAULTS


class Model:
    """A loaded model and its one step: fill `batch`, call forward(), read `logits`.

    plan says where it lies and what it runs on; on_layer(i): see load_weights.  The
    checkpoint may be closed afterwards.  executor: another model's, whose threads run this one too,
    in turn.  KernelError if the GPU fails meanwhile."""

    block_size = BLOCK_SIZE

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        *,
        on_layer: Callable[[int], None] = lambda _: None,
        executor: Any = None,
    ) -> None:
        self.config, self.plan = checkpoint.config, plan
        self.device, self.device_note = plan.device, plan.note
        self.compute, self.kv_dtype, self.n_blocks = plan.compute, plan.kv_dtype, plan.n_blocks
        self.max_batch_tokens, self.max_seqs = plan.max_batch_tokens, plan.max_seqs
        self.max_logits, self.n_slots = plan.max_logits, plan.n_slots
        self.max_seq_len = plan.max_seq_len
        try:
            with kernel_errors():
                self._load(checkpoint, on_layer, executor)
        except RuntimeError as error:
            if plan.device != "cuda":
                raise
            raise KernelError(f"the GPU failed while the model was loaded: {error}") from error
        self._sampling_program: Program | None = None
        self._fetched: NDArray[np.float32] | None = None  # logits of a GPU
        self._is_fetched, self.n_updates = False, 0
        self._identity: tuple[int, CacheIdentity] | None = None  # after how many updates

    def _load(self, checkpoint: Checkpoint, on_layer: Callable[[int], None], given: Any) -> None:
        """Memory, batch, weights, cache and workspace, then the recorded step."""
        plan, config = self.plan, self.config
        has_own = given is None and plan.device == "cpu"
        self.executor = make_executor(plan.n_threads) if has_own else given
        self.n_threads = plan.n_threads if self.executor is not None else 1
        self.memory = make_memory(plan, self.executor)
        self.batch = Batch(
            plan.max_batch_tokens, plan.max_seqs, plan.max_blocks, plan.max_logits, self.memory
        )
        float32 = plan.compute == "float32"
        if (packed := checkpoint.packed) is not None:
            packed.read_ahead()
        self._weights = load_weights(
            checkpoint, self.memory, float32=float32, n_threads=self.n_threads, on_layer=on_layer
        )
        if packed is not None:
            packed.check_whole()
        self._packed = None if float32 else packed
        self.memory.loaded()
        self._decoder = Decoder(
            config,
            self._weights,
            self.batch,
            self.memory,
            kv_dtype=plan.kv_dtype,
            n_blocks=plan.n_blocks,
            n_slots=plan.n_slots,
            max_seq_len=plan.max_seq_len,
            extras=plan.extras,
        )
        self.cache = self._decoder.cache
        self.draft_head = draft_head(self._decoder, plan, self.memory, self.executor)
        recorder = Recorder(plan.selection)
        self._decoder.record_step(recorder)
        self._calls = recorder.calls
        self._program: Program | None = self._make_program(recorder.calls)

    def _make_program(self, calls: list[OpCall]) -> Program:
        if isinstance(self.memory, HostMemory):
            return Program(calls, self.executor)
        from pyroclast_kernels.gpu.memory import DeviceMemory
        from pyroclast_kernels.gpu.program import DeviceProgram

        assert isinstance(self.memory, DeviceMemory), "there is no third one"
        tuned = self.plan.selection.table != DEFAULTS
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
    def adapters(self) -> Adapters:
        """Loads adapters into slots, and gives them to the sequences of a step."""
        return self._decoder.adapters

    @property
    def kernels(self) -> dict[str, str]:
        """The variant that runs for each "op.format"; "a+b" where a tuned table has several."""
        return dict(self.plan.selection.resolved)

    @property
    def table(self) -> str:
        """The tuned table that chose where no rule did, or "defaults"."""
        return self.plan.selection.table

    @property
    def weight_bytes(self) -> int:
        """Weight bytes that one decode step reads."""
        return self._weights.step_bytes

    @property
    def places(self) -> Mapping[str, Place]:
        """Canonical name -> where that weight lies."""
        return self._weights.places

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole key-value cache."""
        return self.cache.n_bytes

    @property
    def native_seconds(self) -> float:
        """Seconds spent inside steps so far; the rest of a caller's time is Python's."""
        return sum(p.native_seconds for p in (self._program, self._sampling_program) if p)

    def attach_sampler(self, **arguments: Any) -> None:
        """Lets forward(sample=True) end with the op `sample`: its arguments by name, logits
        excepted, as arrays that the caller refills."""
        recorder = Recorder(self.plan.selection)
        with kernel_errors():
            recorder.call("sample", logits=self._decoder.work.logits, **arguments)
        self._sampling_program = self._make_program(self._calls + recorder.calls)

    @property
    def n_warm_ups(self) -> int:
        """How many kinds of step `warm_up` prepares; 0 on the CPU, where that is not needed."""
        return self.program(sample=True).n_warm_ups

    def warm_up(self, show: Callable[[int], None] = lambda _: None) -> None:
        """Compiles kernels and captures graphs before the first request, the sampler attached."""
        with kernel_errors():
            self.program(sample=True).warm_up(show)

    def forward(self, sample: bool = False) -> None:
        """One step over what `batch` holds: writes the cache and the logits (and samples)."""
        # No context manager: with cold caches it costs microseconds (bench/overhead.py).
        program = self._sampling_program if sample else self._program
        if program is None:
            program = self.program(sample)  # which says why there is none
        try:
            program.run()
        except KernelLibraryError as error:  # of the GPU's driver
            raise KernelError(str(error)) from error
        if self._packed is not None:  # the step may have read what is no longer there
            self._packed.check_whole()
        self._is_fetched = False

    def program(self, sample: bool = False) -> Program:
        """The recorded step, with or without the sampler at its end: to trace or replay calls."""
        program = self._sampling_program if sample else self._program
        if program is None:
            raise ClosedError("the model is closed" if self._program is None else "no sampler")
        return program

    def profile(self) -> list[tuple[str, str, str, float]]:
        """Runs one step; (label, op.format, variant, microseconds) of each call, in order.  A state
        of recurrent layers that it reads and writes in place is another one afterwards."""
        return step_times(self.program(), on_gpu=self.memory.on_gpu)

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears cache blocks that may hold a NaN."""
        self.cache.zero_blocks(block_ids)

    def find_non_finite(self) -> str:
        """Where a NaN or an infinity first appears when the step in `batch` is run once more:
        "layer 3 (matmul)", say; empty if it does not."""
        program = self.program()
        with self._decoder.states.kept(self.batch, self.memory):
            return first_non_finite(program, self.memory, self.batch)

    @property
    def slot_arrays(self) -> Callable[[int], list[NDArray[Any]]]:
        """Gives what a slot of recurrent layers' states holds, if anything; outlives close()."""
        return self._decoder.states.slot_arrays

    @property
    def block_arrays(self) -> Callable[[int], list[NDArray[Any]]]:
        """Gives the arrays of a cache block, as KVCache.block_arrays; outlives close()."""
        return self.cache.block_arrays

    @property
    def cache_identity(self) -> CacheIdentity:
        """What decides the bits of a cache block beside the tokens.  Reads all weights, once."""
        n_updates = self.n_updates  # of now: another thread may lay new weights meanwhile
        if self._identity is None or self._identity[0] != n_updates:
            self._identity = n_updates, self._read_identity()
        return self._identity[1]

    def _read_identity(self) -> CacheIdentity:
        block_arrays, calls, packed = self.block_arrays, self._calls, self._packed
        weights = self._weights
        if self._program is None or weights is CLOSED:  # now; another thread may close it below
            raise ClosedError("the model is closed")
        model = model_digest(self.config, weights, self.plan)
        if packed is not None:
            packed.check_whole()
        n_bytes, kernels = sum(array.nbytes for array in block_arrays(0)), kernels_digest(calls)
        return CacheIdentity(model, kernels, self.kv_dtype, self.block_size, n_bytes)

    def prepare_update(self, tensors: Mapping[str, Any]) -> Prepared:
        """Other values for weights, for `update`; nothing is changed yet."""
        return prepare(self.config, self._weights, tensors, self.n_threads, self._packed)

    def update(self, prepared: Prepared) -> None:
        """Lays them in place.  No step may run meanwhile."""
        try:
            with kernel_errors():
                prepared.lay(self.memory, self.plan, self.executor)
        finally:  # Ctrl-C is raised when they are there
            self.n_updates += 1

    def close(self) -> None:
        """Frees threads, weights, cache and graphs; harmless when repeated."""
        if self._program is None:
            return
        for program in filter(None, (self._program, self._sampling_program)):
            program.close()
        self._program = self._sampling_program = self._fetched = None
        self._calls, self._packed, self.draft_head = [], None, None
        self._weights = self.cache = self._decoder = self.executor = CLOSED
        self.memory.close()


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    on_layer: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> Model:
    """Plans and loads in one go; options: those of LoadOptions."""
    with resource_errors():
        planned = plan(checkpoint, device, LoadOptions(**options))
        return Model(checkpoint, planned, on_layer=on_layer)
