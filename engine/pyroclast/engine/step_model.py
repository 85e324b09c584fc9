"""What the loop needs of a model; `pyroclast.model.model.Model` says more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyroclast_kernels.batch import Batch
    from pyroclast_kernels.memory import Memory


class StepModel(Protocol):
    """A step at a time: fill `batch`, call forward(), read the sampler's arrays or `logits`."""

    batch: Batch
    block_size: int
    n_blocks: int
    max_seq_len: int
    max_batch_tokens: int
    max_seqs: int
    max_logits: int
    n_threads: int
    device: str
    device_note: str

    @property
    def logits(self) -> NDArray[np.float32]: ...
    @property
    def hidden(self) -> NDArray[np.float32]: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kernels(self) -> dict[str, str]: ...
    @property
    def table(self) -> str: ...
    @property
    def n_warm_ups(self) -> int: ...
    def attach_sampler(self, **arguments: Any) -> None: ...
    def warm_up(self, show: Callable[[int], None], /) -> None: ...
    def forward(self, sample: bool = False) -> None: ...
    def find_non_finite(self) -> str: ...
    def zero_blocks(self, block_ids: Sequence[int], /) -> None: ...
    def close(self) -> None: ...
