"""Writes a model's weights as the kernels read them: a packed file, made once and mapped later.

The layout is the memory's own, so the model is loaded one product at a time, and each is written
when it is packed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.checkpoint.convert.mixes import check_target, is_matrix
from pyroclast.checkpoint.convert.run import Converted, NewFile, checked_path, open_source
from pyroclast.checkpoint.convert.source import Source, gguf_source
from pyroclast.checkpoint.open import Checkpoint, Tensor, open_checkpoint
from pyroclast.checkpoint.packed import NAMES_KEY, VECTOR_KEY
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.errors import ModelFileError
from pyroclast.families.gguf_rope import ROPE_TENSORS
from pyroclast.files.gguf_writer import Value, replacing
from pyroclast.files.packed_file import Entry, entry_name
from pyroclast.files.packed_writer import PackedWriter, placed
from pyroclast.model.device import kernel_errors
from pyroclast.model.packer import Floats, Packer
from pyroclast.model.supported import check_supported
from pyroclast.model.weights import lay_out
from pyroclast_kernels import features
from pyroclast_kernels.memory import CountedWeight, CountingMemory, HostMemory, Memory, Weight
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.selection import Selection

_FOLDER_FORMATS = ("f32", "f16", "bf16")


def write_packed(
    source: str,
    target: str,
    to: str | None = None,
    *,
    adapter: str | None = None,
    threads: int | None = None,
    bar: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Converted:
    """Writes the model `source` as the packed file `target`.  to: a format or mix, as `convert`
    takes it; None keeps the formats that there are.  adapter is merged into the weights, as
    `convert` does it.  bar gets the number of layers, and gives a function that gets how many are
    done."""
    if to is not None:
        check_target(to)
    n_threads = threads or features.n_cpus()
    path = checked_path(source, Path(target))
    with (
        _as_gguf(path, Path(target), to, adapter, n_threads) as (gguf, notes),
        open_checkpoint(gguf) as checkpoint,
    ):
        check_supported(checkpoint.config)
        show = bar(checkpoint.config.n_layers)
        entries, n_bytes = _write(checkpoint, _metadata(gguf), Path(target), n_threads, show)
    return Converted(target, n_bytes, _counts(entries), notes)


@contextmanager
def _as_gguf(
    path: Path, target: Path, to: str | None, adapter: str | None, n_threads: int
) -> Iterator[tuple[Path, list[str]]]:
    """The model as a GGUF file, and notes: the source itself, or what is made of it in a file
    without a name, which is gone when this process is."""
    if to is None and adapter is None and not path.is_dir():
        yield path, []
        return
    try:
        with tempfile.TemporaryFile(dir=target.absolute().parent) as file:
            with closing(open_source(path, adapter)) as source:
                new = NewFile(source, to or _own_format(source))
                new.write(file, n_threads, lambda _: None)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}"), new.notes()
    except OSError as error:
        raise ModelFileError(
            f"{target}: cannot be written: {error.strerror or error}; a second file of the model's "
            "size needs room beside it meanwhile"
        ) from error


def _own_format(source: Source) -> str | None:
    """The one format of the matrices of a folder, or of what an adapter was merged into; None where
    the experts are in MXFP4 besides: each keeps its own."""
    found = {t.format for t in source.tensors if is_matrix(t.name, t.shape)}
    changed = {t.format for t in source.tensors if t.delta is not None}
    if "mxfp4" in found - changed and found - {"mxfp4"} <= set(_FOLDER_FORMATS):
        return None
    if len(found) != 1 or not found <= set(_FOLDER_FORMATS):
        raise ModelFileError(
            f"the matrices have the formats {', '.join(sorted(found))}; --to names one for all"
        )
    return found.pop()


def _metadata(path: Path) -> dict[str, bytes]:
    """The keys of a GGUF file, and what else of it the config needs, as values of a packed file."""
    with closing(gguf_source(path)) as source:
        found = dict(source.metadata)
        names = [tensor.name for tensor in source.tensors]
        found[NAMES_KEY] = Value("[str]", names).to_bytes()
        for tensor in source.tensors:
            if tensor.name in ROPE_TENSORS:
                values = tensor.rows(0, 1).view("<f4").reshape(-1).tolist()
                found[VECTOR_KEY + tensor.name] = Value("[f32]", values).to_bytes()
    return found


class _Planner(Packer):
    """Notes what a packed file will have, in the order of the layers."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, CountingMemory(on_gpu=False), False, ReadAhead(1))
        self.entries: list[Entry] = []

    def pack(self, tensors: list[Tensor]) -> Weight:
        weight = super().pack(tensors)
        name, shape = entry_name([t.name for t in tensors]), (weight.n_rows, weight.n_cols)
        self.entries.append(Entry(name, weight.format, "packed", shape, weight.n_bytes))
        return weight

    def vector(self, *names: str, offset: float = 0.0) -> Any:
        self._note(names)
        return super().vector(*names, offset=offset)

    def expert_biases(self, names: Sequence[str]) -> Any:
        self._note(names)
        return super().expert_biases(names)

    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any:
        self._note([name])
        return super().array(name, change)

    def _note(self, names: Sequence[str]) -> None:
        for name in dict.fromkeys(names):  # a bias of keys that are values stands twice
            tensor = self._tensors[name]
            shape = (math.prod(tensor.shape),)  # biases of experts lie one after the other
            self.entries.append(Entry(name, tensor.format, "rows", shape, tensor.n_bytes))


class _Filler(Packer):
    """Packs what the planner noted, and writes it; only the product at hand is in memory."""

    def __init__(
        self, checkpoint: Checkpoint, memory: Memory, reader: ReadAhead, writer: PackedWriter
    ) -> None:
        super().__init__(checkpoint, memory, False, reader)
        self._writer = writer

    def pack(self, tensors: list[Tensor]) -> Weight:
        weight: Any = super().pack(tensors)
        self._writer.add(entry_name([t.name for t in tensors]), weight.data)
        return CountedWeight(weight.format, weight.n_rows, weight.n_cols, weight.n_bytes)

    def vector(self, *names: str, offset: float = 0.0) -> Any:
        self._add(names)
        return super().vector(*names, offset=offset)

    def expert_biases(self, names: Sequence[str]) -> Any:
        self._add(names)
        return super().expert_biases(names)

    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any:
        self._add([name])
        return super().array(name, change)

    def _add(self, names: Sequence[str]) -> None:
        for name in dict.fromkeys(names):
            self._writer.add(name, np.ascontiguousarray(self._tensors[name].rows()))


def _write(
    checkpoint: Checkpoint,
    metadata: dict[str, bytes],
    target: Path,
    n_threads: int,
    on_layer: Callable[[int], None],
) -> tuple[list[Entry], int]:
    """Writes the file; its entries, and its bytes."""
    planner = _Planner(checkpoint)
    lay_out(planner, checkpoint.config, lambda _: None)
    planned = planner.entries
    last = placed(metadata, planned)[-1]
    with kernel_errors(), replacing(target, last.offset + last.n_bytes) as file:
        # The fixed order: what packs the weights does not change their bytes.
        memory = HostMemory(Selection("frozen"), make_executor(n_threads))
        writer = PackedWriter(file, metadata, planned)
        with ReadAhead(n_threads) as reader:
            filler = _Filler(checkpoint, memory, reader, writer)
            lay_out(filler, checkpoint.config, lambda i: on_layer(i + 1))
        return planned, writer.finish()


def _counts(entries: list[Entry]) -> dict[str, dict[str, int]]:
    """Weights and bytes of each format."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        row = found.setdefault(entry.format, {"tensors": 0, "n_bytes": 0})
        row["tensors"] += entry.name.count("+") + 1
        row["n_bytes"] += entry.n_bytes
    return found
