"""What a loaded model says of itself: where it runs, and on which kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyroclast.engine.step_model import StepModel
from pyroclast.engine.tiered_cache import TieredCache


class ModelFacts:
    """The facts of `model`, under the names that its user knows."""

    model: StepModel
    # Bytes per second that this machine can stream.  Set it, and timings tell the share.
    memory_bandwidth: float | None = None
    _prefixes: TieredCache
    # What it was loaded from, and how; None if it was made of parts.
    _source: tuple[str | Path, dict[str, Any]] | None = None

    @property
    def source(self) -> str | None:
        """The file, folder or name that it was loaded from, as it was given; None if it was made
        of parts."""
        return None if self._source is None else str(self._source[0])

    @property
    def kernels(self) -> dict[str, str]:
        """The variant that runs for each "op.format"; "a+b" where a tuned table has several."""
        return self.model.kernels

    @property
    def device(self) -> str:
        """Where steps run: "cpu" or "cuda"."""
        return self.model.device

    @property
    def device_note(self) -> str:
        """Why they run there."""
        return self.model.device_note

    @property
    def table(self) -> str:
        """The tuned table that chose kernels where no rule did, or "defaults"."""
        return self.model.table

    @property
    def n_threads(self) -> int:
        """Threads that a step runs on."""
        return self.model.n_threads

    @property
    def n_disk_pages(self) -> int:
        """Blocks of the KV cache that were read from cache_dir, not computed."""
        return self._prefixes.n_disk_pages
