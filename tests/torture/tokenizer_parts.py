"""What a tokenizer.json may be made of: every kind of step and of model, put into a sound file."""

from __future__ import annotations

from typing import Any


def _model(kind: str, **state: Any) -> dict[str, Any]:
    """A model of that kind, with the steps that any text passes."""
    steps = {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": _LEVEL}
    return {"model": {"type": kind, **state}, "added_tokens": [], **steps}


_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated"}
_SPLIT |= {"invert": False}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
TOKENIZERS: list[dict[str, Any]] = [
    {},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}, _REPLACE,
        {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "StripAccents"},
    ]}},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
         "strip_accents": None, "lowercase": True}, {"type": "Nmt"}, {"type": "NFKD"},
    ]}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        _SPLIT, {**_LEVEL, "use_regex": False}, {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Isolated"}, {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    ]}},
    {"post_processor": {"type": "Sequence", "processors": [
        {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [256], "tokens": ["<|bos|>"]}}},
        _LEVEL, {"type": "RobertaProcessing", "sep": ["<|eos|>", 257], "cls": ["<|bos|>", 256],
                 "trim_offsets": True, "add_prefix_space": True},
    ]}},
    {"decoder": {"type": "Sequence", "decoders": [
        _REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]}},
    {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
     "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<|eos|>"}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABvawB4AA=="}},
    _model("Unigram", unk_id=0, byte_fallback=False,
           vocab=[["<unk>", 0.0], ["▁the", -1.5], ["t", -2.0], ["h", -2.5], ["e", -3.0]]),
    _model("WordPiece", unk_token="[UNK]", continuing_subword_prefix="##",
           max_input_chars_per_word=100, vocab={"[UNK]": 0, "the": 1, "##a": 2, "c": 3, "##t": 4}),
    _model("WordLevel", unk_token="[UNK]", vocab={"[UNK]": 0, "the": 1, "cat": 2, "<|eos|>": 3}),
    _model("BPE", dropout=0.5, unk_token="<unk>", continuing_subword_prefix="", fuse_unk=True,
           end_of_word_suffix="</w>", byte_fallback=True, ignore_merges=False,
           vocab={"<unk>": 0, "t": 1, "h": 2, "th": 3, "a</w>": 4, "<0x41>": 5}, merges=["t h"]),
]  # fmt: skip
