"""Files in every type against llama.cpp, which reads the same file: same blocks, same logits.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python; without it these are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyroclast.lab.peers.client import WORKERS, Client
from pyroclast_kernels.weights import formats
from raw_blocks import CONFIG, file_pair
from stepping import load, logits_of

TOKENS = np.random.default_rng(5).integers(0, 256, 48).tolist()
ON_DISK = [name for name, layout in formats.FORMATS.items() if layout.ggml_type is not None]


@pytest.fixture
def llama() -> Iterator[Client]:
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON is not set")
    with Client(python, WORKERS / "llama_worker.py", {}) as client:
        yield client


@pytest.mark.parametrize("format", ON_DISK)
def test_logits_are_llama_cpps(llama: Client, tmp_path: Path, format: str) -> None:
    path, values = file_pair(tmp_path, format)
    room = {"n_prompt": len(TOKENS), "n_gen": 0, "n_depth": 0, "n_batch": 1}
    llama.ask("load", model=str(path), threads=1, repack=False, workloads=[room])
    llama.ask("every_logit", token_ids=TOKENS, path=str(tmp_path / "logits.npy"))
    its = np.load(tmp_path / "logits.npy")[:, : CONFIG.vocab_size]
    want = logits_of(load(values, compute="float32"), TOKENS)
    ours = logits_of(load(path, kv_dtype="f16"), TOKENS)
    spread = float(want.std())
    # Both quantize activations: llama.cpp to 8 bits with one scale for 32 or 256 columns.
    assert np.abs(its - want).mean() < 0.06 * spread
    assert np.abs(ours - want).mean() < 0.03 * spread
