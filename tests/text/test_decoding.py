"""Each step of a decoder runs, in one call and in a stream, as `tokenizers` runs it."""

import itertools
import json
import random

import pytest
from tokenizers import Tokenizer as Backend

from pyroclast.errors import TokenizerError
from pyroclast.text.tokenizer import Tokenizer

PIECES = ["<unk>", "▁", "▁the", "a", "\n", "▁▁", "aa", "b", "<0x0A>", "<0x20>", "<0xC3>", "<0xA9>"]
SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
NEWLINES = {"type": "Replace", "pattern": {"String": "\n "}, "content": "\n"}
AAB = {"type": "Replace", "pattern": {"String": "aab"}, "content": "<>"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
DECODERS = [
    [SPACES, BYTES, FUSE],
    [SPACES, BYTES, FUSE, STRIP],
    [SPACES, BYTES, FUSE, STRIP | {"start": 3}],
    [SPACES, BYTES, FUSE, STRIP | {"content": "a"}],
    [BYTES, METASPACE, FUSE, NEWLINES],  # Lucie-7B
    [BYTES, METASPACE | {"prepend_scheme": "never"}, FUSE],
    [SPACES, BYTES, FUSE, NEWLINES, AAB],
    [SPACES, BYTES, FUSE, {"type": "Sequence", "decoders": [AAB, NEWLINES]}],
    [SPACES, AAB | {"pattern": {"String": "aa"}}, BYTES, FUSE],
]


def folder(path, decoders):
    model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(PIECES)}, "merges": []}
    decoder = {"type": "Sequence", "decoders": decoders}
    state = {"version": "1.0", "added_tokens": [], "model": model, "decoder": decoder}
    (path / "tokenizer.json").write_text(json.dumps(state))
    return Tokenizer.from_folder(path), Backend.from_file(str(path / "tokenizer.json"))


@pytest.mark.parametrize("decoders", DECODERS, ids=str)
def test_a_decoder_runs_as_tokenizers_runs_it(tmp_path, decoders):
    tok, oracle = folder(tmp_path, decoders)
    rng = random.Random(1)
    whole = [[i] for i in range(1, 9)] + [[a, b] for a, b in itertools.permutations(range(1, 9), 2)]
    for ids in whole + [rng.choices(range(1, 10), k=rng.randint(0, 9)) for _ in range(300)]:
        expected = oracle.decode(ids)
        assert tok.decode(ids) == expected, ids
        stream = tok.decoder()
        assert "".join(map(stream.step, ids)) + stream.flush() == expected, ids
    assert tok.decode([10, 11]) == oracle.decode([10, 11]) == "é"


def test_text_that_goes_on_is_not_stripped(tmp_path):
    tok, _ = folder(tmp_path, [SPACES, BYTES, FUSE, STRIP, NEWLINES])
    assert tok.decode([2, 4, 2]) == "the\nthe"
    assert tok.decode([2, 4, 2], continuation=True) == " the\nthe"


@pytest.mark.parametrize(
    ("decoders", "message"),
    [
        ([SPACES, STRIP, FUSE], "at fault: Strip"),
        ([SPACES, FUSE, STRIP | {"stop": 1}], "at fault: Strip"),
        ([SPACES, FUSE, NEWLINES, STRIP], "at fault: Strip"),
        ([SPACES, FUSE, BYTES], "at fault: ByteFallback"),
        ([SPACES, FUSE, AAB | {"pattern": {"Regex": "a+"}}], "Replace needs a string"),
        ([SPACES, FUSE, AAB | {"pattern": {"String": ""}}], "Replace needs a string"),
        ([SPACES, {"type": "WordPiece", "prefix": "##", "cleanup": True}], "at fault: WordPiece"),
        ([FUSE], "is not supported"),
    ],
)
def test_a_step_that_would_not_run_is_refused_by_name(tmp_path, decoders, message):
    with pytest.raises(TokenizerError, match=message):
        folder(tmp_path, decoders)
