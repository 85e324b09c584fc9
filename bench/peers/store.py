"""What each engine loads for a comparison: files in one format, made of the same weights."""

import argparse
import sys
from pathlib import Path

from peers.arena import WORKERS
from peers.client import Client, PeerError
from peers.files import model_file
from peers.folders import ct2_folder, hf_folder
from peers.table import PEERS
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.lab.speed.throughput import main_format


class Store:
    """Makes and finds files for the arguments of bench/engine.py; they are kept in args.cache."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    def ours(self, format: str | None) -> str:
        """What Pyroclast loads.  Without peers no file is needed."""
        args = self._args
        if not args.peer:
            return args.model if format is None else f"{args.model}@{format}"
        if format not in (None, "f16") and "llama.cpp" not in args.peer:
            what = f"making a {format} file"
            raise PeerError(f"{what} takes --peer llama.cpp=PYTHON, which has the tool")
        return str(self._gguf(format))

    def theirs(self, peer: str, format: str | None) -> str | None:
        """What a peer loads; None if it does not stand beside this format."""
        if not self._stands_beside(peer, format):
            return None
        reads = PEERS[peer].reads
        if reads == "hf":
            return str(hf_folder(self._args.model, self._args.cache))
        if reads == "ct2":
            return str(ct2_folder(self._args.model, self._convert, self._args.cache))
        return str(self._gguf(format))

    def _stands_beside(self, peer: str, format: str | None) -> bool:
        formats = PEERS[peer].formats
        if formats is None:
            return True
        if format is None:
            with open_checkpoint(self._gguf(None)) as checkpoint:
                format = main_format(checkpoint)
        return format in formats

    def _gguf(self, format: str | None) -> Path:
        args = self._args
        return model_file(args.model, format, self._quantize, pure=args.pure, directory=args.cache)

    def _quantize(self, source: Path, target: Path, format: str) -> None:
        """In the peer's Python that has llama.cpp."""
        print(f"writing {target.name.rpartition('.gguf')[0]}.gguf ...", file=sys.stderr)
        with Client(self._args.peer["llama.cpp"], WORKERS / "llama_worker.py", {}) as client:
            client.ask(
                "quantize",
                source=str(source),
                target=str(target),
                format=format,
                pure=self._args.pure,
                threads=self._args.threads,
            )

    def _convert(self, source: Path, target: Path) -> None:
        print(f"writing {target.name.partition('.ct2')[0]}.ct2-int8 ...", file=sys.stderr)
        python = self._args.peer["CTranslate2"]
        with Client(python, WORKERS / PEERS["CTranslate2"].script, {}) as client:
            client.ask("convert", source=str(source), target=str(target))
