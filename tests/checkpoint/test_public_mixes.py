"""The mixes of types that people download, made by llama.cpp's own quantizer and by hand: each file
loads and computes what llama.cpp computes of it.  And the mixes that Pyroclast writes itself.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python; without it the former are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from pyroclast.checkpoint.convert.mixes import targets
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.lab.peers.client import WORKERS, Client
from stepping import load, logits_of

PROMPT = np.random.default_rng(5).integers(0, 256, 48).tolist()
# Eight layers, since mixes go by the layer.  Rows of 96 and 160 values fill no block of 256.
WIDE = replace(tiny.BASE, d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512, n_layers=8)
SHAPES = {"wide": WIDE, "narrow": replace(tiny.BASE, n_layers=8)}
# Mix of llama.cpp -> types that the wide model must have, so that the name is not all it got.
MIXES = {
    "q2_k": {"Q2_K", "Q3_K", "Q6_K"},
    "q3_k_m": {"Q3_K", "Q4_K", "Q5_K", "Q6_K"},
    "q4_k_s": {"Q4_K", "Q5_K", "Q6_K"},
    "q4_k_m": {"Q4_K", "Q6_K"},
    "q5_k_m": {"Q5_K", "Q6_K"},
    "q6_k": {"Q6_K"},
    "q8_0": {"Q8_0"},
    "iq4_xs": {"IQ4_XS", "Q5_K", "Q6_K"},
    "iq4_nl": {"IQ4_NL", "Q5_K", "Q6_K"},
    "iq3_m": {"IQ3_S", "Q4_K", "Q6_K"},
    "iq3_s": {"IQ3_S", "Q6_K"},
    "mxfp4": {"MXFP4", "Q8_0"},
}
# As in files named UD-Q4_K_XL: a type for each tensor, by pattern, the first that fits.
BY_HAND = {
    r"^output\.|attn_v": "q6_k",
    r"token_embd|blk\.[07]\.ffn_down": "q5_k_m",
    r"attn_k": "q8_0",
    r"blk\.[246]\.ffn_(gate|up)": "iq4_xs",
    r"blk\.[35]\.ffn_(gate|up)": "iq3_s",
    r"attn_output": "iq4_nl",
    r"attn_q": "mxfp4",
    r"": "q4_k_s",
}


@pytest.fixture
def llama() -> Iterator[Client]:
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    with Client(python, WORKERS / "llama_worker.py", {}) as client:
        yield client


def source_of(folder: Path, shape: str) -> Path:
    config = SHAPES[shape]
    return tiny.write_gguf(folder / "f16.gguf", config, tiny.random_weights(config), "F16")


def quantized(llama: Client, source: Path, mix: str) -> Path:
    path = source.with_name(f"{mix}.gguf")
    names = {"source": str(source), "target": str(path), "format": mix}
    llama.ask("quantize", **names, pure=False, threads=1)
    return path


def types_of(path: Path) -> set[str]:
    """Of the matrices."""
    return {t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}


def joined(llama: Client, source: Path) -> Path:
    """A file with each tensor from the one that BY_HAND names."""
    readers = {mix: gguf.GGUFReader(quantized(llama, source, mix)) for mix in BY_HAND.values()}
    path, first = source.with_name("joined.gguf"), readers["q4_k_s"]
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in first.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    for i, one in enumerate(first.tensors):
        mix = next(mix for pattern, mix in BY_HAND.items() if re.search(pattern, one.name))
        tensor = readers[mix].tensors[i]
        assert tensor.name == one.name
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def agree(llama: Client, path: Path, folder: Path) -> None:
    """Ours and llama.cpp's logits are both near those of the file's values in float32."""
    room = {"n_prompt": len(PROMPT), "n_gen": 0, "n_depth": 0, "n_batch": 1}
    llama.ask("load", model=str(path), threads=1, repack=False, workloads=[room])
    llama.ask("every_logit", token_ids=PROMPT, path=str(folder / "logits.npy"))
    want = logits_of(load(path, compute="float32"), PROMPT)
    its, ours = np.load(folder / "logits.npy"), logits_of(load(path, kv_dtype="f16"), PROMPT)
    assert its.shape == want.shape
    # Both quantize activations: llama.cpp to 8 bits with one scale for 32 or 256 columns.
    assert error(its, want) < 0.06
    assert error(ours, want) < 0.03


def error(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """The mean difference over the spread of the logits."""
    return float(np.abs(got - want).mean() / want.std())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_of_llama_cpp_s_quantizer(
    llama: Client, tmp_path: Path, mix: str, shape: str
) -> None:
    path = quantized(llama, source_of(tmp_path, shape), mix)
    if shape == "wide":
        assert types_of(path) == MIXES[mix]
    agree(llama, path, tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mix_by_hand(llama: Client, tmp_path: Path, shape: str) -> None:
    path = joined(llama, source_of(tmp_path, shape))
    if shape == "wide":
        want = {"IQ3_S", "IQ4_NL", "IQ4_XS", "MXFP4", "Q4_K", "Q5_K", "Q6_K", "Q8_0"}
        assert types_of(path) == want
    agree(llama, path, tmp_path)


# What a target may lose of the weights, in all: the mean difference of logits over their spread.
LOST = {"f32": 1e-6, "f16": 2e-3, "bf16": 2e-2, "q8_0": 0.03, "q6_k": 0.06, "q5": 0.2, "q4": 0.4}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("to", targets())
def test_what_pyroclast_writes(tmp_path: Path, to: str, shape: str) -> None:
    source, path = source_of(tmp_path, shape), tmp_path / "ours.gguf"
    convert(str(source), str(path), to)
    original = logits_of(load(source, compute="float32"), PROMPT)
    want = logits_of(load(path, compute="float32"), PROMPT)
    ours = logits_of(load(path, kv_dtype="f16"), PROMPT)
    assert error(ours, want) < 0.03
    limit = next((n for kind, n in LOST.items() if to.startswith(kind)), 0.9)
    assert error(want, original) < limit
    with open_checkpoint(path) as checkpoint:
        assert not checkpoint.conversion_line()
