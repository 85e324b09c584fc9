"""What a caller asks of the prefix cache, checked before the model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyroclast.engine import checks
from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.state_slots import StateSlots
from pyroclast.engine.step_model import StepModel
from pyroclast.engine.tiered_cache import TieredCache
from pyroclast.errors import CacheFileError, RequestError

if TYPE_CHECKING:
    from pyroclast.engine.pages.record import PageFormat
    from pyroclast.engine.pages.tier import DiskTier


@dataclass(frozen=True)
class CacheOptions:
    """prefix_cache: whether later calls share blocks.  prefix_cache_bytes: of blocks that only the
    cache owns; None: the whole KV cache.  cache_dir: where they outlive the process, at most
    cache_dir_bytes of them (None: 8 GiB)."""

    prefix_cache: bool = True
    prefix_cache_bytes: int | None = None
    cache_dir: str | os.PathLike[str] | None = None
    cache_dir_bytes: int | None = None

    def __post_init__(self) -> None:
        """RequestError for what cannot be; CacheFileError for a folder that is not trusted."""
        checks.flag("prefix_cache", self.prefix_cache)
        for name in ("prefix_cache_bytes", "cache_dir_bytes"):
            if (value := getattr(self, name)) is not None:
                checks.check_positive(name, value)
        if not self.prefix_cache:
            for name in ("prefix_cache_bytes", "cache_dir"):
                if getattr(self, name) is not None:
                    raise RequestError(f"{name} needs prefix_cache=True; leave one of them out")
        if self.cache_dir is None and self.cache_dir_bytes is not None:
            raise RequestError("cache_dir_bytes bounds cache_dir, which was not given")
        if self.cache_dir is not None:
            path: object = self.cache_dir
            if isinstance(path, os.PathLike):
                path = os.fspath(path)
            if not isinstance(path, str) or not path:  # "" would be the current folder
                raise RequestError(f"cache_dir must be the path of a folder, got {path!r:.100}")
            from pyroclast.engine.pages.folder import make_folder

            make_folder(path)

    def make(self, model: StepModel) -> TieredCache:
        """The prefix cache of a loaded model, over a pool of its blocks.  With a folder the weights
        are read once: a page of another model must not be taken for one of this."""
        max_idle = None
        if not self.prefix_cache:
            max_idle = 0
        elif self.prefix_cache_bytes is not None:
            max_idle = self.prefix_cache_bytes * model.n_blocks // model.kv_bytes
        states = StateSlots(model.n_slots, model.block_size) if model.n_slots else None
        pool = BlockPool(model.n_blocks, model.zero_blocks)
        copy = _block_copier(model) if self.prefix_cache else None
        cache = TieredCache(pool, model.block_size, max_idle, states, copy)
        cache.tiers = self.tiers(model)
        return cache

    def tiers(self, model: StepModel) -> tuple[DiskTier, ...]:
        """What lies below it: pages of the model with its weights of now."""
        if self.cache_dir is None:
            return ()
        from pyroclast.engine.pages.folder import DEFAULT_BYTES
        from pyroclast.engine.pages.tier import DiskTier

        limit, format = self.cache_dir_bytes or DEFAULT_BYTES, page_format(model)
        folder = Path(os.path.abspath(self.cache_dir))
        arrays, threads = model.block_arrays, model.n_threads
        return (DiskTier(folder, limit, format, arrays, threads, model.slot_arrays),)


def _block_copier(model: StepModel) -> Callable[[int, int], None] | None:
    """Copies a block of the model's cache into another one, in all layers; None on a GPU."""
    if model.device != "cpu":
        return None

    def copy(source: int, target: int) -> None:
        arrays = model.block_arrays  # not kept: a closed model lets its cache go
        for to, found in zip(arrays(target), arrays(source), strict=True):
            to[...] = found

    return copy


def page_format(model: StepModel) -> PageFormat:
    """How pages of a model lie in files; CacheFileError on a GPU, whose memory no file is read
    into."""
    if model.device != "cpu":
        raise CacheFileError(
            f"cache_dir and saved states need the CPU, this model runs on {model.device!r}; load "
            'it with device="cpu", or leave them out'
        )
    from pyroclast.engine.pages.record import PageFormat

    identity = model.cache_identity
    n_state_bytes = sum(array.nbytes for array in model.slot_arrays(0)) if model.n_slots else 0
    return PageFormat(identity, n_state_bytes)
