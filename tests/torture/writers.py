"""What Pyroclast writes to disk: each writer, by name, and the bytes that its file may hold."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from fake_model import fake_llm
from pyroclast.checkpoint import hub, installed
from pyroclast.checkpoint.convert.run import convert
from pyroclast.cli import eval as eval_command
from pyroclast.cli import rate as rate_command
from pyroclast.lab.evaluate.run import Result
from pyroclast.lab.profile import chrome_trace
from pyroclast.lab.report import report
from pyroclast.lab.scaffold import scaffold
from pyroclast.lab.speed import kernel_file
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.rows import MeasuredCeiling, Results
from pyroclast.model.write_packed import write_packed
from pyroclast.train import curve, ratings, result, vocabulary
from pyroclast.train.run_folder import RunFolder
from pyroclast_kernels import tables, whole_file
from pyroclast_kernels.triton import choices
from torture.nursery import Nursery
from torture.record import Record
from torture.tiny_model import tiny_path

N_ROWS = 3000


def _convert(path: Path, version: int) -> None:
    convert(str(path.parents[1] / "source.gguf"), str(path), ("q8_0", "q4_0")[version], threads=1)


def _packed(path: Path, version: int) -> None:
    to = (None, "q4_0")[version]
    write_packed(str(path.parents[1] / "source.gguf"), str(path), to, threads=1)


def _result(path: Path, version: int) -> None:
    write_result(path, {"rows": [{"row": i, "version": version} for i in range(N_ROWS)]})


def _kernels(path: Path, version: int) -> None:
    ceilings = [MeasuredCeiling("read", i, 20.0 + version, "GB/s", 1, "x") for i in range(N_ROWS)]
    kernel_file.save(path, Results((), tuple(ceilings), {"cpu": "C"}, {}))


def _report(path: Path, version: int) -> None:
    results = path.parents[1] / f"results-{version}"
    if not results.exists():
        results.mkdir()
        _kernels(results / "kernels.json", version)
    with (
        mock.patch.object(report, "matplotlib"),
        mock.patch.object(report, "write_pngs", return_value=[]),
    ):
        report.write_report(results, path.parent)


def _table(path: Path, version: int) -> None:
    with mock.patch.object(tables, "path_for", return_value=path):
        tables.save(tables.TunedTable("c", "b", (), False, {"rows": [version] * N_ROWS}))


def _tiles(path: Path, version: int) -> None:
    with mock.patch.object(choices, "path", return_value=path):
        choices.save(choices.TileTable("g", "b", {}, {}, {"rows": [version] * N_ROWS}))


def _text(path: Path, version: int) -> None:
    whole_file.write_text(path, f"| {version} |\n" * N_ROWS)


def _trace(path: Path, version: int) -> None:
    made = ({"ts": i, "version": version} for i in range(N_ROWS))
    recorded: Any = None
    with mock.patch.object(chrome_trace, "events", return_value=made):
        chrome_trace.write_trace(recorded, path, {})


def _state(path: Path, version: int) -> None:
    with fake_llm(max_seq_len=512, n_blocks=256, max_batch_tokens=64) as llm:
        llm.save_state(path, list(range(version, version + 200)) * 2)


def _items(path: Path, version: int) -> None:
    results = [Result(str(i), "match", correct=bool(version)) for i in range(N_ROWS)]
    eval_command.write_results(path, results)


def _variant(path: Path, version: int) -> None:
    path.unlink(missing_ok=True)  # it never replaces one
    with mock.patch.object(scaffold, "source", return_value=f"# {version}\n" * N_ROWS):
        scaffold.new_variant("softmax", "torture", "numba", str(path.parents[1]))


def _installed(path: Path, version: int) -> None:
    path.unlink(missing_ok=True)  # it is made where it is not there
    part = path.parents[1] / f"part-{version}"
    if not part.exists():
        part.write_bytes(b"%d" % version * 100_000)
    model = mock.Mock(file=path.name, sha256=hashlib.sha256(part.read_bytes()).hexdigest())
    with mock.patch.object(installed.cache_folder, "path_of", return_value=path.parent):
        installed._joined("torture", model, [part])


def _hub(path: Path, version: int) -> None:
    names = ["config.json", *(f"model-{version}-{i}.safetensors" for i in range(N_ROWS))]
    with mock.patch.object(hub, "_Hub") as found, mock.patch.object(hub, "_load"):
        found.return_value.files = names
        hub._download("torture/model", "", path.parent)


def _trained(path: Path, version: int) -> None:
    result.write_result(
        path.parent, result.Result("final", {}, {"n": version}, {"rows": [0] * N_ROWS})
    )


def _run(path: Path, version: int) -> None:
    path.unlink(missing_ok=True)  # it never replaces one
    RunFolder(path.parent, "torture", {"rows": [version] * N_ROWS}).close()


def _vocabulary(path: Path, version: int) -> None:
    learned = {path.name: f"{version}\n" * N_ROWS}
    with (
        mock.patch.object(vocabulary, "learn", return_value=learned),
        mock.patch.object(vocabulary, "read_texts"),
    ):
        vocabulary.tokenizer([], path.parent)


def _pairs(path: Path, version: int) -> None:
    others = {"ratings": str(path.parents[1]), "prompts": str(path.parents[1])}
    given = Namespace(rounds=1, export=str(path), json=False, **others)
    with mock.patch.object(ratings, "Ratings") as made:
        rated = made.return_value.__enter__.return_value
        rated.export.return_value = [{"chosen": f"{version}"}] * N_ROWS
        rate_command.rate(given)


def _curve(path: Path, version: int) -> None:
    drawn = b"<svg>" + bytes([48 + version]) * 100_000
    curve.save(mock.Mock(savefig=lambda file, **_: file.write(drawn)), path)


@dataclass(frozen=True)
class Writer:
    """`write(path, version)` writes version 0 or 1 of `file`.  modules: those whose writing it is;
    makes: it only makes files that are not there, so there may be none."""

    file: str
    write: Callable[[Path, int], None]
    modules: tuple[str, ...]
    makes: bool = False


WRITERS: dict[str, Writer] = {
    "convert": Writer("model.gguf", _convert, ("pyroclast.files.gguf_writer",)),
    "packed": Writer("model.pyro", _packed, ("pyroclast.files.gguf_writer",)),
    "result": Writer("result.json", _result, ("pyroclast.lab.speed.result_file",)),
    "kernels": Writer("kernels.json", _kernels, ("pyroclast.lab.speed.kernel_file",)),
    "report": Writer("index.html", _report, ("pyroclast.lab.report.report",)),
    "table": Writer("table.json", _table, ("pyroclast_kernels.table_files",)),
    "tiles": Writer("tiles.json", _tiles, ("pyroclast_kernels.table_files",)),
    "text": Writer("table.md", _text, (
        "pyroclast.lab.peers.suite", "pyroclast.lab.peers.comparison",
    )),
    "state": Writer("prompt.state", _state, ("pyroclast.engine.pages.states",)),
    "items": Writer("items.jsonl", _items, ("pyroclast.cli.eval",)),
    "trace": Writer("trace.json", _trace, ("pyroclast.lab.profile.chrome_trace",)),
    "softmax": Writer(
        "numba_torture.py", _variant, ("pyroclast.lab.scaffold.scaffold",), makes=True
    ),
    "hub": Writer(hub._WHOLE, _hub, ("pyroclast.checkpoint.hub",)),
    "trained": Writer("result.json", _trained, ("pyroclast.train.result",)),
    "run": Writer("run.json", _run, ("pyroclast.train.run_folder",), makes=True),
    "pairs": Writer("pairs.jsonl", _pairs, ("pyroclast.cli.rate",)),
    "curve": Writer("curve.svg", _curve, ("pyroclast.train.curve",)),
    "vocabulary": Writer("tokenizer.json", _vocabulary, ("pyroclast.train.vocabulary",)),
    "installed": Writer("model.gguf", _installed, ("pyroclast.checkpoint.installed",), makes=True),
}  # fmt: skip

_WRITE = """
from pathlib import Path
from torture.writers import WRITERS
WRITERS[argv[0]].write(Path(argv[1]), int(argv[2]))
"""


class Desk:
    """A folder for each writer, which holds its file and nothing else."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self.top = Path(tempfile.mkdtemp(prefix="desk-"))
        shutil.copy(tiny_path(), self.top / "source.gguf")
        self._wanted: dict[tuple[str, int], bytes] = {}
        self.seconds: dict[str, float] = {}  # that each writer takes, with a process of its own
        for name in WRITERS:
            self.path(name).parent.mkdir(mode=0o700)
            for version in (1, 0):
                begin = time.monotonic()
                problem = self.write(name, version)
                assert not problem, problem
                self.seconds[name] = time.monotonic() - begin
                self._wanted[name, version] = self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        return self.top / name / WRITERS[name].file

    def write(self, name: str, version: int) -> str:
        """Writes the file in a process of its own; what was wrong with that."""
        ended = self._nursery.run(_WRITE, name, self.path(name), version)
        return "" if ended.code == 0 else f"{name} cannot be written: {ended}"

    def size(self, name: str, version: int) -> int:
        return len(self._wanted[name, version])

    def versions(self, name: str) -> list[int]:
        """Which versions the file is, byte for byte; none if it is half of one.  Where there may be
        no file, none is as good as any."""
        if WRITERS[name].makes and not self.path(name).exists():
            return [0, 1]
        found = self.path(name).read_bytes()
        return [version for version in (0, 1) if self._wanted[name, version] == found]

    def litter(self, name: str) -> list[str]:
        """What else lies in the folder."""
        path = self.path(name)
        return [each.name for each in path.parent.iterdir() if each != path]


def runs(
    case: Callable[[random.Random, Nursery, Desk], list[str]],
) -> Callable[[int, float, Record], None]:
    """What a kind of torture runs: cases until the deadline, each with dice of its own."""

    def run(seed: int, deadline: float, record: Record) -> None:
        number = 0
        with Nursery() as nursery:
            desk = Desk(nursery)
            while time.monotonic() < deadline or not number:
                with record.case():
                    for what in case(random.Random(f"{seed} {number}"), nursery, desk):
                        record.finding(what)
                number += 1

    return run
