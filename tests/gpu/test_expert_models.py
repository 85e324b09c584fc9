"""A model with experts on the GPU, or in Triton's interpreter, against the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_experts
import tiny_gemma4
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.model.load_plan import plan
from pyroclast.model.options import LoadOptions
from stepping import load, logits_of

TOKENS = np.random.default_rng(4).integers(0, 256, 9).tolist()
SMALL: dict[str, Any] = {"max_batch_tokens": 16, "max_logits": 16, "max_seqs": 8, "n_blocks": 8}


@pytest.mark.parametrize(
    ("quant", "options", "bound"),
    [("F32", {"compute": "float32"}, 2e-5), ("Q8_0", {"kv_dtype": "f16"}, 0.05)],
)
def test_logits_equal_the_cpu(
    tmp_path: Path, quant: str, options: dict[str, Any], bound: float
) -> None:
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), quant)
    want = logits_of(load(path, device="cpu", **SMALL, **options), TOKENS)
    model = load(path, device="cuda", **SMALL, **options)
    got = logits_of(model, TOKENS)
    # Of quantized weights a near tie may choose another expert: most tokens have none.
    assert np.median(np.abs(got - want).max(axis=1)) < bound * np.abs(want).max()
    assert {c.kernel.op for c in model._calls} >= {"route", "group", "expert_down", "combine"}


def test_experts_with_norms_of_their_own_equal_the_cpu(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    path = tiny_gemma4.write(tmp_path, tiny_gemma4.EXPERTS | layers)
    options: dict[str, Any] = SMALL | {"compute": "float32"}
    want, got = (
        logits_of(load(path, device=device, **options), TOKENS[:5]) for device in ("cpu", "cuda")
    )
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


def test_the_plan_counts_what_loading_takes(tmp_path: Path) -> None:
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), "Q8_0")
    with open_checkpoint(path) as checkpoint:
        counted = plan(checkpoint, "cuda", LoadOptions(**SMALL)).n_bytes
    weights = load(path, device="cuda", **SMALL)._weights
    products = [
        product.weight.n_bytes
        for layer in weights.layers
        for group in (layer.qkv, layer.wo, layer.router, layer.expert_gate_up, layer.expert_down)
        for product in group
    ]
    embeddings = weights.token_embd.n_bytes + weights.output.n_bytes
    vectors = 4 * (64 + 3 * (2 * 64 + 2 * 32))
    assert counted["weights"] == sum(products) + embeddings + vectors
    # A row for each of the three experts of each of 16 tokens, d_ff and d_model wide.
    assert counted["a step"] > 16 * 3 * 4 * (32 + 64)
