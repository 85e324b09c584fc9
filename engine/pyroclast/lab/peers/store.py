"""What each engine loads for a comparison: files in one format, made of the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.lab.peers.client import WORKERS, Client, PeerError
from pyroclast.lab.peers.files import model_file
from pyroclast.lab.peers.folders import ct2_folder, hf_folder
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.table import PEERS
from pyroclast.lab.speed.throughput import main_format


class Store:
    """Makes and finds the files of one comparison."""

    def __init__(self, options: CompareOptions) -> None:
        self._options = options

    def ours(self, format: str | None) -> str:
        """What Pyroclast loads.  Without peers no file is needed."""
        options = self._options
        if not options.peers:
            return options.model if format is None else f"{options.model}@{format}"
        return str(self._gguf(format))

    def theirs(self, peer: str, format: str | None) -> str | None:
        """What a peer loads; None if it is not compared in this format."""
        if not self._takes_format(peer, format):
            return None
        reads = PEERS[peer].reads
        if reads == "hf":
            return str(hf_folder(self._options.model, self._options.cache))
        if reads == "ct2":
            return str(ct2_folder(self._options.model, self._convert, self._options.cache))
        return str(self._gguf(format))

    def _takes_format(self, peer: str, format: str | None) -> bool:
        formats = PEERS[peer].formats
        if formats is None:
            return True
        if format is None:
            with open_checkpoint(self._gguf(None)) as checkpoint:
                format = main_format(checkpoint)
        return format in formats

    def _gguf(self, format: str | None) -> Path:
        options = self._options
        return model_file(
            options.model,
            format,
            self._quantize,
            pure=options.pure,
            directory=options.cache,
        )

    def _quantize(self, source: Path, target: Path, format: str) -> None:
        """By llama.cpp's own tool, in the Python that has it."""
        if "llama.cpp" not in self._options.peers:
            what = f"making a {format} file"
            raise PeerError(f"{what} takes --peer llama.cpp=PYTHON, which has the tool")
        print(f"writing {target.name.rpartition('.gguf')[0]}.gguf ...", file=sys.stderr)
        python, script = self._options.peers["llama.cpp"], WORKERS / PEERS["llama.cpp"].script
        with Client(python, script, {}) as client:
            client.ask(
                "quantize",
                source=str(source),
                target=str(target),
                format=format,
                pure=self._options.pure,
                threads=self._options.threads,
            )

    def _convert(self, source: Path, target: Path) -> None:
        print(f"writing {target.name.partition('.ct2')[0]}.ct2-int8 ...", file=sys.stderr)
        python = self._options.peers["CTranslate2"]
        with Client(python, WORKERS / PEERS["CTranslate2"].script, {}) as client:
            client.ask("convert", source=str(source), target=str(target))
