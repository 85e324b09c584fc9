"""Adapter slots: low-rank additions (LoRA, Hu et al. 2021) to the products of the layers.

A model is made with room for some adapters.  Each sequence of a step uses one of them or none, and
sequences of one step may use different ones.  Without slots nothing is recorded and no memory is
taken; with slots, a step without adapted tokens reads none of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.adapter.pairs import PRODUCTS
from pyroclast.errors import RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.families.tensors import tensor_shapes
from pyroclast.model.workspace import Activations
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import CountingMemory, Memory
from pyroclast_kernels.program import Recorder

Floats = NDArray[np.float32]
TARGETS = PRODUCTS


@dataclass(frozen=True)
class AdapterSlots:
    """Room for n adapters of ranks up to max_rank that change the products named in targets.
    RequestError for sizes below 1, or a target that is none of TARGETS."""

    n: int
    max_rank: int
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        for name in ("n", "max_rank"):
            if getattr(self, name) < 1:
                raise RequestError(
                    f"{name} of adapters must be at least 1, got {getattr(self, name)}"
                )
        for target in self.targets:
            if target not in TARGETS:
                raise RequestError(
                    f"targets of adapters must be of {', '.join(TARGETS)}, got {target!r}"
                )


@dataclass(frozen=True)
class AdapterKey:
    """An adapter as requests know it: the slot that it is loaded in, and bytes that tell it from
    any other in caches.  scales: canonical name -> what its file multiplies the product there by.
    The default stands for the base model."""

    slot: int | None = None
    fingerprint: bytes = b""
    scales: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)


BASE = AdapterKey()


@dataclass(frozen=True)
class _Site:
    """One product's adapters: lora_a (n, max_rank, n_cols) and lora_b (n, n_rows, max_rank)
    float32, of which the first ranks[slot] rows and columns hold."""

    lora_a: Floats
    lora_b: Floats
    ranks: NDArray[np.int32]


class Adapters:
    """The adapters of a model: loaded into slots by `set`, given to sequences by `assign`."""

    def __init__(
        self, slots: AdapterSlots | None, config: ModelConfig, batch: Batch, memory: Memory
    ) -> None:
        self._slots, self._batch, self._memory = slots, batch, memory
        self.n_slots = 0 if slots is None else slots.n
        self._shapes = tensor_shapes(replace(config, draft_layer=None))
        self._sites: dict[str, _Site] = {}
        self.assigned: list[NDArray[Any]] = []  # what `assign` writes
        if slots is None:
            return
        self._n_adapted = memory.inputs((1,), np.int64)
        self._of_token = memory.inputs((batch.max_batch_tokens,), np.int32)
        self.assigned = [self._n_adapted, self._of_token]
        self._scales = memory.inputs((slots.n,), np.float32)
        for name, shape in self._shapes.items():
            if name.startswith("layers.") and name.rpartition(".")[2] in slots.targets:
                n_rows, n_cols = shape
                self._sites[name] = _Site(
                    memory.table((slots.n, slots.max_rank, n_cols), np.float32),
                    memory.table((slots.n, n_rows, slots.max_rank), np.float32),
                    memory.inputs((slots.n,), np.int32),
                )

    # ---- the recorded step -----------------------------------------------------------------

    def change(self, *targets: str) -> bool:
        """Whether a product of these names may have an adapter."""
        return self._slots is not None and not set(targets).isdisjoint(self._slots.targets)

    def record(
        self, ops: Recorder, layer: int, targets: Sequence[str], x: Activations, out: Any
    ) -> None:
        """After a product whose rows are those of `targets`, one below the other: adds to `out`
        (max_batch_tokens, all rows) what the tokens' adapters make of x.values."""
        first_row = 0
        for target in targets:
            name = f"layers.{layer}.{target}"
            n_rows, n_cols = self._shapes[name]
            if self._slots is not None and name in self._sites:
                site = self._sites[name]
                ops.call(
                    "low_rank",
                    n_tokens=self._batch.n_tokens_at,
                    n_adapted=self._n_adapted,
                    adapter_of_token=self._of_token,
                    x=x.values,
                    lora_a=site.lora_a,
                    lora_b=site.lora_b,
                    ranks=site.ranks,
                    scales=self._scales,
                    out=out[:, first_row:],
                    n_rows=n_rows,
                    n_cols=n_cols,
                    max_rank=self._slots.max_rank,
                    out_stride=out.shape[1],
                )
            first_row += n_rows

    # ---- what callers do -------------------------------------------------------------------

    def set(self, slot: int, tensors: Mapping[str, tuple[Any, Any]], scale: float) -> None:
        """Loads an adapter: {"layers.0.wq": (A, B)} adds scale * B @ A to that weight, A (rank,
        n_cols) and B (n_rows, rank).  Weights that are not named stay as they are, so {} empties
        the slot.  No step may run meanwhile.  RequestError, with nothing changed, for a slot or a
        weight that is not there, and for shapes that do not fit."""
        self._check_slot(slot)
        if not np.isfinite(scale):
            raise RequestError(f"scale of an adapter must be finite, got {scale}")
        pairs = {name: self._checked(name, *pair) for name, pair in tensors.items()}
        for site in self._sites.values():
            site.ranks[slot] = 0
        self._scales[slot] = scale
        for name, (a, b) in pairs.items():
            site, rank = self._sites[name], len(a)
            site.ranks[slot] = rank
            site.lora_a[slot, :rank] = a
            site.lora_b[slot, :, :rank] = b
            for table in (site.lora_a, site.lora_b):
                size = table[slot].size
                self._memory.note(table, slot * size, (slot + 1) * size)

    def assign(self, of_sequence: Sequence[int | None]) -> None:
        """Says which adapter each sequence of the step in the batch uses: a slot, or None.  It
        holds until it is said again, so a step of other sequences or other lengths must say it."""
        batch = self._batch
        if len(of_sequence) != batch.n_seqs:
            raise RequestError(
                f"each of the step's {batch.n_seqs} sequences needs an adapter or None, got "
                f"{len(of_sequence)}"
            )
        slots = [slot for slot in of_sequence if slot is not None]
        for slot in slots:
            self._check_slot(slot)
        if self._slots is None:
            return
        starts = batch.seq_starts[: batch.n_seqs + 1]
        numbers = np.array([-1 if slot is None else slot for slot in of_sequence], np.int32)
        of_token = np.repeat(numbers, np.diff(starts))
        self._of_token[: len(of_token)] = of_token
        self._n_adapted[0] = np.count_nonzero(of_token >= 0)

    def _check_slot(self, slot: int) -> None:
        n = self.n_slots
        if not 0 <= slot < n:
            remedy = f"slots are 0..{n - 1}" if n else "make it with adapters=AdapterSlots(n, rank)"
            raise RequestError(f"the model has no adapter slot {slot}; {remedy}")

    def _checked(self, name: str, a: Any, b: Any) -> tuple[Floats, Floats]:
        """A and B as float32, of the shapes that the weight `name` takes."""
        if name not in self._shapes and f"{name}_experts" in self._shapes:
            raise RequestError(
                f"the adapter changes {name!r}, but that layer has experts, which adapters cannot "
                "change; train it for the products of attention (wq, wk, wv, wo)"
            )
        if name not in self._sites or self._slots is None:
            known = ", ".join(sorted({site.rpartition(".")[2] for site in self._sites}))
            raise RequestError(
                f"the adapter changes {name!r}; the model's slots change {known} of each layer, "
                'as in "layers.0.wq"'
            )
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        n_rows, n_cols = self._shapes[name]
        rank, most = a.shape[0] if a.ndim else 0, self._slots.max_rank
        if a.shape != (rank, n_cols) or b.shape != (n_rows, rank) or not 1 <= rank <= most:
            raise RequestError(
                f"the adapter of {name} must have A (rank, {n_cols}) and B ({n_rows}, rank) of a "
                f"rank in 1..{most}, got {a.shape} and {b.shape}"
            )
        return a, b


def slot_bytes(slots: AdapterSlots, config: ModelConfig) -> int:
    """Bytes on the host of a model's slots, counted by the code that asks for them."""
    memory = CountingMemory(on_gpu=False)
    Adapters(slots, config, Batch(1, 1, 1, 1), memory)
    return memory.n_bytes
