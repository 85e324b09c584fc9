"""The engines that Pyroclast is compared with: worker, settings, files, and where they are.

A new engine is an entry here and a worker in the folder `workers`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Settings, of which the best counts: name -> (for loading, for each run).
Settings = dict[str, tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class Peer:
    """script: its worker.  reads: the kind of file that the worker loads, made of the same weights
    by `lab.peers.files` and `lab.peers.folders`.  formats: those of ours that it is compared in;
    None for all.  module: what a Python that has the engine can import; install: how to get it.
    time_share: what it adds to the time of a suite's comparison, if those that stay loaded take 1
    together."""

    script: str
    settings: Settings
    reads: Literal["gguf", "hf", "ct2"] = "gguf"
    formats: tuple[str, ...] | None = None
    folder: str = ""
    module: str = ""
    install: str = ""
    program: str = ""
    time_share: float = 0.0


PEERS: dict[str, Peer] = {
    "llama.cpp": Peer(
        "llama_worker.py",
        {
            "repack": ({"repack": True}, {"kv_unified": False}),
            "no repack": ({"repack": False}, {"kv_unified": False}),
            "repack, unified KV": ({"repack": True}, {"kv_unified": True}),
            "no repack, unified KV": ({"repack": False}, {"kv_unified": True}),
        },
        folder="llama",
        module="llama_cpp",
        # OpenMP off: only then does the polling thread pool count that llama-bench attaches.
        install='CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=OFF" pip install llama-cpp-python',
    ),
    "ik_llama.cpp": Peer(
        "ik_worker.py",
        {"repack": ({"repack": True}, {}), "no repack": ({"repack": False}, {})},
        folder="ik_llama",
        install="git clone https://github.com/ikawrakow/ik_llama.cpp ik_llama, and in it "
        "cmake -B build -DGGML_NATIVE=ON && cmake --build build --target llama-bench",
        program="build/bin/llama-bench",
        # A turn loads the file and runs three times: 44 s for the prompt of 1B Q4_0, in both
        # settings, where four other engines take 42 s (bench/results/engine_avx2_1b.json).
        time_share=1.0,
    ),
    "OpenVINO GenAI": Peer(
        "openvino_worker.py",
        {"paged": ({"backend": "paged"}, {}), "stateful": ({"backend": "stateful"}, {})},
        # Of version 2026.4; a K-quant file only where no row length made llama.cpp put Q5_0 in it.
        formats=("f16", "q8_0", "q4_0", "q4_1", "q4_k_m", "q4_k", "q6_k"),
        folder="openvino",
        module="openvino_genai",
        install="pip install openvino-genai",
    ),
    "CTranslate2": Peer(
        "ctranslate2_worker.py",
        {"int8": ({"compute_type": "int8"}, {})},
        reads="ct2",
        formats=("q8_0", "q4_0", "q4_1", "q4_k_m", "q4_k"),  # it has no 4-bit weights on the CPU
        folder="ctranslate2",
        module="ctranslate2",
        install="pip install ctranslate2 transformers torch (the latter two to convert)",
    ),
    "transformers": Peer(
        "transformers_worker.py",
        {"bfloat16": ({"dtype": "bfloat16"}, {})},
        reads="hf",
        formats=("bf16", "f16"),
        folder="transformers",
        module="transformers",
        install="pip install transformers torch",
    ),
    # Another installed Pyroclast: what a change is worth.
    "pyroclast": Peer("pyroclast_worker.py", {"default": ({}, {})}),
}


def find(directory: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """(peer -> its Python or program, peer -> why there is none).  An engine may have an
    environment of its own, <directory>/<folder>/bin/python; otherwise it is looked for in this
    Python."""
    found, absent = {}, {}
    for name, peer in PEERS.items():
        if not peer.folder:
            continue
        own = directory / peer.folder / (peer.program or "bin/python") if directory else None
        if own is not None and own.exists():
            found[name] = str(own)
        elif peer.module and importlib.util.find_spec(peer.module) is not None:
            found[name] = sys.executable
        else:
            where = f"{own} is not there" if own else "--peers DIR names no folder of engines"
            if peer.module:
                where = (f"{where}, and " if own else "") + f"this Python has no {peer.module}"
            absent[name] = f"{where}: {peer.install}"
    return found, absent


def worker_of(name: str, place: str) -> tuple[str, dict[str, str]]:
    """(The Python that runs a peer's worker, what its environment says) for what `find` found."""
    return (sys.executable, {"PEER_PROGRAM": place}) if PEERS[name].program else (place, {})
