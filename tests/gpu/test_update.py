"""Other weights for a model on the GPU: the bits are those of a model that was loaded with them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

import tiny
from stepping import load, logits_of

# Biases, and a head that is the embedding.
CONFIG = replace(
    tiny.BASE, family="qwen2", qkv_bias=True, tie_embeddings=True, n_layers=1, n_heads=2,
    n_kv_heads=1, head_dim=32, d_model=64, d_ff=64, vocab_size=272, max_seq_len=128,
)  # fmt: skip
TOKENS = [5, 77, 130]


def test_weights_are_updated_in_place(tmp_path: Path) -> None:
    old, new, values = (tmp_path / f"{name}.gguf" for name in ("old", "new", "values"))
    tiny.write_gguf(old, CONFIG, tiny.random_weights(CONFIG, 1), "Q8_0")
    tiny.write_gguf(new, CONFIG, tiny.random_weights(CONFIG, 2), "Q8_0")
    tiny.write_gguf(values, CONFIG, tiny.random_weights(CONFIG, 2), "F32")
    tensors = {each.name: np.array(each.data) for each in gguf.GGUFReader(values).tensors}
    model, expected = (
        load(path, device="cuda", max_seqs=2, n_blocks=16, max_batch_tokens=8, max_logits=8)
        for path in (old, new)
    )
    with closing(model), closing(expected):
        before, wanted = logits_of(model, TOKENS).copy(), logits_of(expected, TOKENS)
        model.update(model.prepare_update(tensors))
        found = logits_of(model, TOKENS)
        assert (found == wanted).all() and not (found == before).all()
