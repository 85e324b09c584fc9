"""GGUF files as Hugging Face folders: the same logits, bit for bit, and the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from pyroclast import LLM
from pyroclast.errors import TokenizerError, UnsupportedModelError
from pyroclast.text.tokenizer import Tokenizer
from pyroclast.train.base_model import tokenizer_files
from pyroclast.train.export import export

IDS = list(range(60, 100))


@pytest.mark.parametrize(
    ("name", "quant"),
    [("llama", "Q8_0"), ("llama-tied", "F32"), ("qwen2", "F16"), ("llama-mha", "F32")],
)
def test_the_folder_is_the_same_model(tmp_path: Path, name: str, quant: str) -> None:
    config = tiny.CONFIGS[name]
    file = tiny.write_gguf(tmp_path / "model.gguf", config, tiny.random_weights(config), quant)
    folder = tmp_path / "folder"
    folder.mkdir()
    export(file, folder)
    with LLM(file, compute="float32") as llm:
        want, ids = llm.logits(IDS), llm.tokenizer.encode("the <|eos|> and in ü")
    with LLM(folder, compute="float32") as llm:
        np.testing.assert_array_equal(llm.logits(IDS), want)
        assert llm.tokenizer.encode("the <|eos|> and in ü") == ids
        assert llm.tokenizer.decode(ids) == "the  and in ü"
        assert llm.tokenizer.eos_token_ids == {257}


def test_a_sentencepiece_vocabulary_is_refused(tmp_path: Path) -> None:
    """Its files would lose the space before the first word; a folder's own files are taken."""
    tiny.write_hf_tokenizer(tmp_path, tiny.BASE)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    state["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}
    path.write_text(json.dumps(state))
    with pytest.raises(TokenizerError, match="use the model's Hugging Face folder"):
        Tokenizer.from_folder(tmp_path).folder_files()
    assert tokenizer_files(tmp_path)["tokenizer.json"] == path.read_text()


def test_what_the_table_cannot_say_is_refused(tmp_path: Path) -> None:
    config = tiny.CONFIGS["llama-linear"]
    file = tiny.write_gguf(tmp_path / "model.gguf", config, tiny.random_weights(config))
    with pytest.raises(UnsupportedModelError, match="train the folder that it was made from"):
        export(file, tmp_path)
    assert not (tmp_path / "config.json").exists()
