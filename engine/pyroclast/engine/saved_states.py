"""What `LLM.save_state` and `LLM.load_state` do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pyroclast.engine.cache_options import page_format
from pyroclast.engine.call import Call
from pyroclast.engine.intake import Intake
from pyroclast.engine.loop import Loop
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.tiered_cache import Tier, TieredCache
from pyroclast.errors import CacheFileError, RequestError

if TYPE_CHECKING:
    from pyroclast.engine.pages.record import PageFormat
    from pyroclast.engine.pages.writer import Kept


def _checked_path(path: object) -> Path:
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str) or not path:  # "" would be the current folder
        raise RequestError(f"path must be the path of a file, got {path!r:.100}")
    return Path(path)


class SavedStates:
    """Saves and loads for one loop.  is_cached: whether it has a prefix cache, as both need."""

    def __init__(self, loop: Loop, cache: TieredCache, intake: Intake, *, is_cached: bool) -> None:
        self._loop, self._cache, self._intake = loop, cache, intake
        self._is_cached = is_cached
        self._model = loop.stepper.model
        self._lock = threading.Lock()  # of the tiers
        self._n_changes = 0  # of the weights

    @property
    def _format(self) -> PageFormat:
        if not self._is_cached:
            raise RequestError(
                "saved states need prefix_cache=True, which this LLM was made without"
            )
        return page_format(self._model)

    def save(
        self, path: str | os.PathLike[str], token_ids: list[int], begin: Callable[[], Call]
    ) -> int:
        """The number of positions that the file holds: the prompt's full blocks.  begin: gives the
        call, which knows the adapter as it is by then."""
        from pyroclast.engine.pages.states import write_state

        path = _checked_path(path)
        n_changes, call = self._n_changes, begin()
        size = self._model.block_size
        n_pages = len(token_ids) // size
        if n_pages == 0:
            raise RequestError(
                f"a state holds whole blocks of {size} positions, so a prompt must have at least "
                f"{size} tokens; got {len(token_ids)}"
            )
        self._intake.check_fits(token_ids)
        format, arrays = self._format, self._model.block_arrays
        slot_arrays = self._model.slot_arrays

        last: list[ReadRequest] = []

        def kept() -> list[Kept]:
            last[:] = [self._read(token_ids, call)]
            if n_changes != self._n_changes:  # format or root may be those of the old weights
                raise CacheFileError(f"{path}: not written: the weights changed meanwhile")
            return list(self._cache.kept(last[0]))

        def state() -> bytes | None:
            return self._cache.state_behind(last[0], n_pages, slot_arrays)

        write_state(path, format, n_pages, arrays, kept, state)
        return n_pages * size

    def load(self, path: str | os.PathLike[str], begin: Callable[[], Call]) -> int:
        """The number of positions that are in the prefix cache now."""
        from pyroclast.engine.pages.states import open_state

        path = _checked_path(path)
        n_changes, call = self._n_changes, begin()
        model, format = self._model, self._format
        state = open_state(path, format, model.block_arrays, model.n_threads, model.slot_arrays)
        token_ids = state.token_ids
        if state.root != self._intake.root(call):
            raise CacheFileError(f"{path}: cannot be loaded: it was saved with another adapter")
        self._intake.check_fits(token_ids)
        if any(not 0 <= token_id < self._intake.vocab_size for token_id in token_ids):
            raise CacheFileError(f"{path}: cannot be loaded: it has tokens that there are not")
        with self._lock:
            if n_changes != self._n_changes:
                raise CacheFileError(f"{path}: cannot be loaded: the weights changed meanwhile")
            self._cache.tiers = (*self._cache.tiers, state)
        try:
            # One token more, where there is room: the last one of a text is computed, always.
            more = token_ids[-1:] if len(token_ids) < self._intake.max_seq_len else []
            request = self._read(token_ids + more, call)
        finally:
            with self._lock:
                self._cache.tiers = tuple(t for t in self._cache.tiers if t is not state)
        if request.n_cached < len(token_ids) + len(more) - self._model.block_size:
            raise CacheFileError(f"{path}: cannot be loaded: it was changed while it was read")
        n_kept = sum(1 for _ in self._cache.kept(request)) * self._model.block_size
        if n_kept < len(token_ids):
            raise CacheFileError(
                f"{path}: cannot be loaded: the prefix cache has kept {n_kept} of its "
                f"{len(token_ids)} positions; give it more n_blocks or prefix_cache_bytes"
            )
        return len(token_ids)

    def renew(self, tiers: tuple[Tier, ...]) -> None:
        """The model has other weights: what was saved with the old ones is another model's.  tiers
        take the place of those of the old weights."""
        with self._lock:
            self._cache.tiers = tiers
            self._n_changes += 1

    def _read(self, token_ids: list[int], call: Call) -> ReadRequest:
        """Has a text computed, but for what is cached: all its full blocks are, afterwards."""
        request = ReadRequest(list(token_ids), call, root=self._intake.root(call))
        self._loop.complete(call, [request], progress=False)
        return request
