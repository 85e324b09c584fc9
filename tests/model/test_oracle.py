"""Logits against transformers in float32: every family, both file formats, and the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demo import demo_path
from stepping import load, logits_of
from tiny import CONFIGS, random_weights, write_folder, write_gguf

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's and transformers' own, about their insides
]
TOKENS = np.random.default_rng(11).integers(0, 256, 100).tolist()
TEXT = (
    "The volcano had been silent for three hundred years, and the people of the valley had long "
    "since stopped looking up. On the morning of the ninth of March the birds left first."
)


def oracle_logits(folder: Path, token_ids: list[int], **options: Any) -> NDArray[np.float32]:
    """float32 (n_tokens, vocab_size) by transformers."""
    torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
    transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([token_ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_folder_equals_transformers(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, CONFIGS[name], random_weights(CONFIGS[name]))
    want = oracle_logits(tmp_path, TOKENS)
    got = logits_of(load(tmp_path, compute="float32"), TOKENS)
    assert float(want.std()) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-3, rtol=0)
    np.testing.assert_allclose(got, want, atol=2e-4, rtol=0)  # what it is in truth


@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_equals_the_folder(tmp_path: Path, name: str) -> None:
    """The same weights in a GGUF, whose rows of q and k are permuted: against transformers on the
    folder, since transformers itself reads a GGUF's weights only for released models."""
    weights = random_weights(CONFIGS[name])
    write_folder(tmp_path / "folder", CONFIGS[name], weights)
    want = oracle_logits(tmp_path / "folder", TOKENS)
    got = logits_of(load(write_gguf(tmp_path / "m.gguf", CONFIGS[name], weights)), TOKENS)
    np.testing.assert_allclose(
        logits_of(load(tmp_path / "m.gguf", compute="float32"), TOKENS), want, atol=1e-3, rtol=0
    )
    assert np.abs(got - want).max() < 0.1  # f32 weights in the normal mode: a float16 cache


def test_demo_model_equals_transformers() -> None:
    path = demo_path()
    with_tokenizer = load(path, compute="float32")
    from pyroclast.text.tokenizer import Tokenizer

    token_ids = Tokenizer.from_gguf(path).encode(TEXT)
    want = oracle_logits(path.parent, token_ids, gguf_file=path.name)
    got = logits_of(with_tokenizer, token_ids)
    assert np.abs(got - want).max() < 1e-3
