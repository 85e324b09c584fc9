"""Which tiles the GPU's products take where `pyroclast tune --device cuda` found faster ones.

A kernel has a tile of its own choice for each product, and a few others that it would take as well.
One JSON file for each GPU and build of the kernels, in pyroclast/tune/gpu of the user's cache
directory, says which of them was fastest.  A tile changes no bit of a result.  A file that is cut,
of another schema, GPU or build is not used, and `current` says why; an entry whose tile the kernel
would not take is passed over.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pyroclast_kernels import cache_folder, tables
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.table_files import TableError, read_file, write_file
from pyroclast_kernels.triton import device as triton_device

SCHEMA = 1
KIND = "pyroclast tuned tiles"
TOKENS = (1, 16, 32, 64)  # steps of up to so many; larger ones take what the kernels choose
_PACKAGE = Path(__file__).parent.parent
_SOURCES = ("gpu/*.py", "triton/*.py", "*/triton/*.py", "*/triton_*.py")

AnyTile = TypeVar("AnyTile")


@dataclass(frozen=True)
class TiledProduct:
    """What a tile is chosen for.  kernel: whose it is; n_tokens: one of TOKENS; normed: the kernel
    begins with the norm of its token."""

    kernel: str
    format: str
    n_rows: int
    n_cols: int
    n_tokens: int
    normed: bool


@dataclass(frozen=True)
class TileTable:
    """Tiles of one GPU and build, as the fields of each; ratios of their time to the default's."""

    gpu: str
    build: str
    tiles: Mapping[TiledProduct, Mapping[str, int]]
    ratios: Mapping[TiledProduct, float] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)  # where and how, for people

    @property
    def name(self) -> str:
        """What results call it: a hash of what it chooses."""
        chosen = sorted(
            (str(product), sorted(tile.items())) for product, tile in self.tiles.items()
        )
        return f"tiles-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]}"


def tokens_of(n: int) -> int:
    """The class of a step of up to n tokens, or 0 where nothing is tuned."""
    return next((most for most in TOKENS if n <= most), 0)


# ---- the choice ------------------------------------------------------------------------------

_trial: dict[TiledProduct, Any] = {}
_noted: list[Callable[[TiledProduct, Sequence[Any], Sequence[Any]], None]] = []


def choose(
    product: TiledProduct,
    tuned: bool,
    default: AnyTile,
    others: Callable[[], Sequence[AnyTile]],
    results: Sequence[Any],
) -> AnyTile:
    """The tile of a launch: the default, or where `tuned` what the table has of it, if it is among
    the others.  results: tensors that the launch writes, or None, which a tuner compares."""
    if not product.n_tokens:
        return default
    if _noted:
        _noted[-1](product, [default, *others()], [t for t in results if t is not None])
    if product in _trial:
        found: AnyTile = _trial[product]
        return found
    table = current()[0] if tuned else None
    wanted = table.tiles.get(product) if table else None
    if wanted is None:
        return default
    return next((t for t in others() if asdict(t) == wanted), default)  # type: ignore[call-overload]


@contextmanager
def noting(note: Callable[[TiledProduct, Sequence[Any], Sequence[Any]], None]) -> Iterator[None]:
    """Inside, `note` is told of every choice: the product, its tiles with the default first, and
    the results."""
    _noted.append(note)
    try:
        yield
    finally:
        _noted.pop()


@contextmanager
def trying(product: TiledProduct, tile: Any) -> Iterator[None]:
    """Inside, launches of the product take that tile."""
    _trial[product] = tile
    try:
        yield
    finally:
        del _trial[product]


# ---- the table -------------------------------------------------------------------------------


@cache
def machine() -> dict[str, Any]:
    """What a table depends on besides the kernels: the GPU, and what compiles for it.  KernelError
    if the driver fails."""
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", "triton")}
    if triton_device.device().type == "cpu":
        return {"gpu": "Triton's interpreter", **versions}
    import torch

    try:
        properties = torch.cuda.get_device_properties(0)
    except RuntimeError as error:
        raise KernelError(f"the GPU's driver failed: {error}") from error
    return {
        "gpu": properties.name,
        "architecture": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        **versions,
    }


def fingerprint() -> str:
    """12 hexadecimal digits that stand for `machine()`."""
    return hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:12]


@cache
def build_id() -> str:
    """12 hexadecimal digits that change with the source of any kernel."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def path() -> Path:
    """The file of this GPU and build."""
    return tables.directory() / "gpu" / f"{fingerprint()}-{build_id()}.json"


def current() -> tuple[TileTable | None, str]:
    """(the table of this GPU and build, "") or (None, why there is none); read once."""
    return _read(path())


@cache
def _read(file: Path) -> tuple[TileTable | None, str]:
    reason = cache_folder.why_folder_refused(file.parent)
    if reason:
        return None, f"tuned tiles are left out: {reason}"
    if not file.exists():
        return None, "this GPU has not been tuned (`pyroclast tune --device cuda`)"
    try:
        return load(file), ""
    except TableError as error:
        return None, f"{file} is not used: {error}"


def load(file: Path) -> TileTable:
    """The table in a file; TableError if it is not one for this GPU and build."""
    gpu, build = fingerprint(), build_id()
    raw = read_file(file, KIND, SCHEMA, gpu=gpu, build=build)
    entries, made = raw.get("entries"), raw.get("made", {})
    if not isinstance(entries, list) or not isinstance(made, dict):
        raise TableError('it needs a list "entries" and an object "made"')
    read = [_entry(each, i) for i, each in enumerate(entries)]
    tiles = {product: tile for product, tile, _ in read}
    if len(tiles) != len(read):
        raise TableError("it has two entries for one product")
    return TileTable(gpu, build, tiles, {product: ratio for product, _, ratio in read}, made)


def _entry(raw: Any, i: int) -> tuple[TiledProduct, dict[str, int], float]:
    names = tuple(TiledProduct.__dataclass_fields__)
    if not isinstance(raw, dict) or set(raw) != {*names, "tile", "ratio"}:
        raise TableError(f"entry {i} needs exactly {', '.join([*names, 'tile', 'ratio'])}")
    numbers = [raw[name] for name in ("n_rows", "n_cols", "n_tokens")]
    if not all(type(n) is int and n > 0 for n in numbers) or type(raw["normed"]) is not bool:
        raise TableError(f"entry {i} has sizes that are no positive numbers, or no truth value")
    if not all(isinstance(raw[name], str) for name in ("kernel", "format")):
        raise TableError(f"entry {i} has a name that is no text")
    tile, ratio = raw["tile"], raw["ratio"]
    if not isinstance(tile, dict) or not all(type(n) is int for n in tile.values()):
        raise TableError(f"entry {i} has a tile that is no object of whole numbers")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not math.isfinite(ratio):
        raise TableError(f"entry {i} has a ratio that is no number")
    return TiledProduct(**{name: raw[name] for name in names}), tile, float(ratio)


def save(table: TileTable) -> Path:
    """Writes a table where `current` finds it, whole or not at all; KernelError if that fails."""
    entries = [
        asdict(product) | {"tile": dict(tile), "ratio": table.ratios.get(product, 1.0)}
        for product, tile in table.tiles.items()
    ]
    file = path()
    raw = {"kind": KIND, "schema": SCHEMA, "gpu": table.gpu, "build": table.build}
    write_file(file, raw | {"made": dict(table.made), "entries": entries})
    _read.cache_clear()
    return file
