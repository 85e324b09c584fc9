"""A `Vocabulary` as the files of a Hugging Face folder, which `hf_vocab` and transformers read."""

from __future__ import annotations

import json

from pyroclast.errors import TokenizerError
from pyroclast.text.native_tokenizer import call_native
from pyroclast.text.vocab import Vocabulary

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}


def folder_files(vocabulary: Vocabulary) -> dict[str, str]:
    """Name -> text of tokenizer.json, tokenizer_config.json and the chat template, if there is one.
    TokenizerError for a SentencePiece vocabulary, whose spaces these files would change."""
    if not vocabulary.decoding.byte_level:
        raise TokenizerError(
            "only a byte-level vocabulary can be written as tokenizer.json, and this one is "
            "SentencePiece's; use the model's Hugging Face folder"
        )
    text = call_native("the tokenizer cannot be written", vocabulary.backend.backend.to_str)
    state = json.loads(text) | {"decoder": _BYTE_LEVEL | {"use_regex": True}}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(vocabulary.prefix_ids),
        "clean_up_tokenization_spaces": False,
        **vocabulary.named_tokens,
    }
    files = {
        "tokenizer.json": json.dumps(state, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=1, ensure_ascii=False) + "\n",
    }
    if "default" in vocabulary.chat_templates:
        files["chat_template.jinja"] = vocabulary.chat_templates["default"]
    return files
