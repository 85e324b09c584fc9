"""What tests of conversion share: folders of tiny models, and what a converted file holds.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny
from pyroclast import LLM

PEERS = Path(__file__).parent / "peers"
PROMPT = np.random.default_rng(5).integers(0, 256, 60).tolist()
WIDE = replace(tiny.BASE, d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512, n_layers=8)


def peer(script, *arguments):
    """Runs a script with llama.cpp, or skips."""
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, str(PEERS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def logits_of(path):
    with LLM(path, compute="float32", threads=1) as llm:
        return llm.logits(PROMPT)


def distance(got, want):
    """The largest difference over the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def folder_of(path, config, dtype="float32"):
    return tiny.write_folder(path, config, tiny.random_weights(config), dtype)


def keys_of(path):
    return {key: each.contents() for key, each in gguf.GGUFReader(path).fields.items()}


def types_of(path):
    return {each.name: each.tensor_type.name.lower() for each in gguf.GGUFReader(path).tensors}
