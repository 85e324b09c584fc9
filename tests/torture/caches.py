"""Kinds of torture that damage what Pyroclast keeps between processes.  A damaged file is passed
over: nothing is refused here, so a KernelError is a finding as well."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from pyroclast_kernels import tables
from pyroclast_kernels.numba import abi
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.triton import choices
from torture import mutate
from torture.cases import kind_of

_SHAPES = ("any", "64x64", "1024x2048", "d64g3", "512")
_FORMATS = {"matmul": "q8_0", "attention": "f16", "embed": "q8_0"}
_VARIANTS = ("numpy", "numba", "cython", "cpp-avx2", "cpp-baseline", "triton", "no-such")


class TunedTables:
    """The table of this machine and build, as `pyroclast tune` writes it."""

    def __init__(self) -> None:
        os.environ["XDG_CACHE_HOME"] = str(Path.cwd())
        os.environ.pop("PYROCLAST_FROZEN", None)
        self.cpu, self.build = tables.fingerprint(), tables.build_id()
        entries = tuple(
            tables.Entry(op, self._format(op), shape, tokens, variant, "cpp-avx2", 0.5)
            for op in ("matmul", "norm", "sample", "attention")
            for shape in _SHAPES
            for tokens in tables.TOKEN_CLASSES
            for variant in [_VARIANTS[len(shape) % len(_VARIANTS)]]
        )
        table = tables.TunedTable(self.cpu, self.build, entries, False, {"when": "now"})
        self.path = tables.save(table)
        self.tree = tables.read_file(
            self.path, tables.KIND, tables.SCHEMA, cpu=self.cpu, build=self.build
        )
        self.words = [*mutate.words_of(self.tree), *OP_NAMES, *_VARIANTS]

    @staticmethod
    def _format(op: str) -> str:
        return _FORMATS.get(op, "f32")

    def draw(self, dice: Random) -> bytes:
        return mutate.json_bytes(dice, self.tree, self.words)

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        selection = Selection("")
        for op in ("matmul", "norm", "sample", "attention"):
            for shape in _SHAPES:
                selection.variants(op, self._format(op), shape)
        assert all(isinstance(note, str) for note in selection.table_notes)


@dataclass(frozen=True)
class _Tile:
    """As the tiles of the products are: a few whole numbers."""

    rows: int
    cols: int
    warps: int


class TileTables:
    """The table of tiles of this GPU and build, as `pyroclast tune --device cuda` writes it."""

    def __init__(self) -> None:
        os.environ["XDG_CACHE_HOME"] = str(Path.cwd())
        setattr(choices, "machine", lambda: {"gpu": "made up"})  # noqa: B010 - needs no torch
        self.default, *self.others = [_Tile(16 << i, 32, 4) for i in range(4)]
        self.products = [
            choices.TiledProduct(kernel, format, 64, 1024, n_tokens, normed)
            for kernel in ("blocks", "values", "gate_up")
            for format in ("q8_0", "f16")
            for n_tokens in choices.TOKENS
            for normed in (False, True)
        ]
        tiles = {each: asdict(self.others[i % 3]) for i, each in enumerate(self.products)}
        ratios = dict.fromkeys(tiles, 0.5)
        table = choices.TileTable(choices.fingerprint(), choices.build_id(), tiles, ratios, {})
        self.path = choices.save(table)
        self.tree = json.loads(self.path.read_bytes())
        self.words = mutate.words_of(self.tree)
        assert choices.current()[0] is not None

    def draw(self, dice: Random) -> bytes:
        return mutate.json_bytes(dice, self.tree, self.words)

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        choices._read.cache_clear()
        table, why = choices.current()
        assert table.name if table is not None else str(self.path) in why
        for product in self.products:
            tile = choices.choose(product, True, self.default, lambda: self.others, ())
            assert tile in (self.default, *self.others)


class NumbaCache:
    """Files of Numba's cache, cut or overwritten as by a full disk or a power cut.

    Payload: the number of a file, what became of it, and the place."""

    def __init__(self) -> None:
        os.environ["NUMBA_CACHE_DIR"] = str(Path.cwd() / "cache")
        abi.cache_directory.cache_clear()
        self.compile()
        folder = abi.cache_directory()[0]
        assert folder is not None
        self.sound = {path: path.read_bytes() for path in sorted(folder.rglob("*.nb?"))}
        assert self.sound

    @staticmethod
    def compile() -> Any:
        return abi.compile_kernel(_kernel, "torture")

    def draw(self, dice: Random) -> bytes:
        return b"%d %d %d" % (
            dice.randrange(len(self.sound)),
            dice.randrange(4),
            dice.getrandbits(24),
        )

    def check(self, payload: bytes) -> None:
        number, how, place = map(int, payload.split())
        for path, data in self.sound.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        path, data = list(self.sound.items())[number]
        place %= len(data)
        page = place - place % 4096
        path.write_bytes(
            [data[:place], data[:page] + bytes(len(data) - page), b"", os.urandom(64) + data[64:]][
                how
            ]
        )
        assert self.compile().address


def _kernel(args: Any, part: int, n_parts: int) -> None:
    """As small as a kernel can be: what is compiled again after each case."""


CACHES = [
    kind_of("tuned-table", TunedTables),
    kind_of("tile-table", TileTables),
    kind_of("numba-cache", NumbaCache, weight=0.5),
]
