"""What the loop needs of a model; `pyroclast.model.model.Model` says more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyroclast.families.config import ModelConfig
    from pyroclast.model.adapters import AdapterKey, Adapters
    from pyroclast.model.cache_identity import CacheIdentity
    from pyroclast.model.draft_head import DraftHead
    from pyroclast.model.update import Prepared
    from pyroclast.text.tokenizer import Tokenizer
    from pyroclast_kernels.batch import Batch
    from pyroclast_kernels.memory import Memory

    # What an LLM is made of: model, tokenizer, name, and adapters by name.
    Parts = tuple["StepModel", Tokenizer, str, Mapping[str, AdapterKey]]


class SampledModel(Protocol):
    """What the sampler's arrays are made for."""

    max_seq_len: int
    max_seqs: int
    max_logits: int
    n_threads: int

    @property
    def logits(self) -> NDArray[np.float32]: ...
    @property
    def memory(self) -> Memory: ...
    def attach_sampler(self, **arguments: Any) -> None: ...


class StepModel(Protocol):
    """A step at a time: fill `batch`, call forward(), read the sampler's arrays or `logits`."""

    batch: Batch
    block_size: int
    n_blocks: int
    n_slots: int
    max_seq_len: int
    max_batch_tokens: int
    max_seqs: int
    max_logits: int
    n_threads: int
    device: str
    device_note: str

    @property
    def config(self) -> ModelConfig: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...
    @property
    def hidden(self) -> NDArray[np.float32]: ...
    @property
    def adapters(self) -> Adapters: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kernels(self) -> dict[str, str]: ...
    @property
    def table(self) -> str: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def cache_identity(self) -> CacheIdentity: ...
    @property
    def draft_head(self) -> DraftHead | None: ...
    @property
    def block_arrays(self) -> Callable[[int], list[NDArray[Any]]]: ...
    @property
    def slot_arrays(self) -> Callable[[int], list[NDArray[Any]]]: ...
    @property
    def n_warm_ups(self) -> int: ...
    def attach_sampler(self, **arguments: Any) -> None: ...
    def warm_up(self, show: Callable[[int], None], /) -> None: ...
    def forward(self, sample: bool = False) -> None: ...
    def find_non_finite(self) -> str: ...
    def zero_blocks(self, block_ids: Sequence[int], /) -> None: ...
    def prepare_update(self, tensors: Mapping[str, Any], /) -> Prepared: ...
    def update(self, prepared: Prepared, /) -> None: ...
    def close(self) -> None: ...


@contextmanager
def closed_on_failure(owner: object, *models: StepModel | None) -> Iterator[None]:
    """Frees the models, and what their owner got inside, if that fails: whoever keeps the error
    would keep them."""
    before = set(vars(owner))
    try:
        yield
    except BaseException as error:
        from traceback import clear_frames

        for model in filter(None, models):
            model.close()
        # The frame that makes the owner still runs: clear_frames leaves that one out.
        for name in vars(owner).keys() - before:
            delattr(owner, name)
        clear_frames(error.__traceback__)  # what they had of the cache
        raise


def warm_up(model: StepModel) -> None:
    """Compiles kernels and captures graphs, on devices that need it; a bar shows how far it is."""
    if model.n_warm_ups:
        with progress_bar(model.n_warm_ups, "graph") as show:
            model.warm_up(show)
