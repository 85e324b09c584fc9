"""A model with residual streams on the GPU, or in Triton's interpreter, against the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tiny_gemma3n
from stepping import load, logits_of

TOKENS = np.random.default_rng(4).integers(0, 256, 3).tolist()
SMALL: dict[str, Any] = {
    "max_batch_tokens": 16,
    "max_logits": 16,
    "max_seqs": 8,
    "n_blocks": 8,
    "kv_dtype": "f16",
}
LAYERS = {
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "intermediate_size": [160, 128],
    "activation_sparsity_pattern": [0.95, 0.0],
    "hidden_size": 64,
}


def test_logits_equal_the_cpu(tmp_path: Path) -> None:
    """With all four streams, products of low rank, and one sparse gate."""
    folder = tiny_gemma3n.write(tmp_path / "model", tiny_gemma3n.TINY | LAYERS)
    path = f"{folder}@q8_0"
    want = logits_of(load(path, device="cpu", **SMALL), TOKENS)
    model = load(path, device="cuda", **SMALL)
    got = logits_of(model, TOKENS)
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()
    ops = {call.kernel.op for call in model._calls}
    assert ops >= {"altup_predict", "altup_correct", "match_rms", "sparse_gate"}
