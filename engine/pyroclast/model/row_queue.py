"""Rows that wait to be read and packed, many at a time: `pyroclast_kernels.file_loading`."""

from __future__ import annotations

from typing import Any

from pyroclast.checkpoint.tensor import FileRows, Tensor
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.memory import HostMemory, Memory

# Packed in a tenth of a second out of the page cache, which a bar of progress can wait.
_MAX_BYTES = 128 << 20


class RowQueue:
    """Of tensors that are stored as the kernels pack them.  What waits is packed when it is enough,
    and by `flush`."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory, self._loading = memory, memory.file_loading()
        self._waiting: list[tuple[Tensor, FileRows, Any, int]] = []

    @classmethod
    def of(cls, memory: Memory) -> RowQueue | None:
        """None for a memory that packs no rows, or elsewhere."""
        return cls(memory) if isinstance(memory, HostMemory) else None

    def add(self, tensor: Tensor, weight: Any, row_offset: int) -> bool:
        """All rows of a tensor, for those of a weight from row_offset on; False where they have to
        be read and packed by other means.  ModelFileError for what waited and cannot be read."""
        source = tensor.source
        if not isinstance(source, FileRows) or not self._loading.add(
            source.file.fileno(),
            source.offset,
            source.row_bytes,
            source.n_rows,
            weight,
            row_offset,
            source.order,
        ):
            return False
        self._waiting.append((tensor, source, weight, row_offset))
        if self._loading.n_bytes >= _MAX_BYTES:
            self.flush()
        return True

    def flush(self) -> None:
        """Reads and packs what waits.  ModelFileError for what cannot be read, or has changed since
        the file was opened."""
        waiting, self._waiting = self._waiting, []
        if not self._loading.run():
            for tensor, _, weight, row_offset in waiting:
                for first, last in tensor.runs():
                    self._memory.pack(tensor.rows(first, last), weight, row_offset + first)
        files: dict[int, tuple[ModelFile, str]] = {}
        for _, source, _, _ in waiting:
            files[id(source.file)] = source.file, f"tensor {source.tensor!r}"
        for file, what in files.values():
            file.check_unchanged(what)
