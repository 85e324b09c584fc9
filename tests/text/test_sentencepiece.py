import random
from itertools import pairwise

import pytest

from pyroclast.files.gguf import GGUFFile
from pyroclast.text.tokenizer import Tokenizer
from vocabularies import (
    BYTE,
    CONTROL,
    NORMAL,
    REAL_VOCABULARIES,
    UNKNOWN,
    USER_DEFINED,
    sentencepiece,
)

REAL = [path for path in REAL_VOCABULARIES if "spm" in path.name]


def tokenizer(metadata):
    return Tokenizer.from_gguf_metadata(metadata)


def encode(tok, text, **options):
    return tok.encode(text, **{"add_special_tokens": False, **options})


def by_score(text, score):
    """SentencePiece BPE, the slow way: join the neighbours whose union scores highest, leftmost
    first, until no union is a piece."""
    symbols = list(("▁" + text if text else "").replace(" ", "▁"))
    while True:
        unions = [a + b for a, b in pairwise(symbols)]
        known = [(-score[union], i) for i, union in enumerate(unions) if union in score]
        if not known:
            return symbols
        i = min(known)[1]
        symbols[i : i + 2] = [unions[i]]


def test_merges_follow_the_scores_on_random_vocabularies():
    rng = random.Random(1)
    for _ in range(100):
        words = {"".join(rng.choices("ab▁", k=rng.randint(2, 5))) for _ in range(20)}
        pieces = rng.sample(sorted({*"ab▁", *words}), k=len({*"ab▁", *words}))
        metadata = sentencepiece(pieces)
        names = metadata["tokenizer.ggml.tokens"]
        score = {piece: -i for i, piece in enumerate(pieces)}
        tok = tokenizer(metadata)
        for _ in range(20):
            text = "".join(rng.choices("ab ", k=rng.randint(0, 14)))
            assert [names[i] for i in encode(tok, text)] == by_score(text, score), (text, pieces)


@pytest.mark.skipif(not REAL, reason="../shared/data/tokenizers is not here")
def test_merges_follow_the_scores_of_a_real_vocabulary():
    file = GGUFFile(str(REAL[0]))
    keys = ("tokens", "scores", "token_type")
    names, scores, types = (file.metadata[f"tokenizer.ggml.{key}"] for key in keys)
    real = Tokenizer.from_gguf_metadata(file.metadata)
    file.close()
    score = {
        name: value
        for name, value, kind in zip(names, scores, types, strict=True)
        if kind == NORMAL
    }
    rng = random.Random(2)
    bits = ["the", "he", "=", "==", "-", " ", "  ", "\n", "</s>", "<0x41>", "!!", "ing", "Ж", "字"]
    for _ in range(300):
        text = "".join(rng.choices(bits, k=rng.randint(1, 15)))
        got = [names[i] for i in encode(real, text, parse_special=False)]
        pieces = by_score(text, score)
        bytewise = [
            name
            for piece in pieces
            for name in ([piece] if piece in score else [f"<0x{b:02X}>" for b in piece.encode()])
        ]
        assert got == bytewise, repr(text)


def test_a_character_without_a_piece_falls_back_to_bytes():
    tok = tokenizer(sentencepiece(["▁", "a"]))
    ids = encode(tok, "a€")
    assert [tok.token_bytes(i) for i in ids] == [b" ", b"a", b"\xe2", b"\x82", b"\xac"]
    assert tok.decode(ids) == "a€"


def test_without_byte_tokens_a_run_of_unknown_characters_is_one_unknown_token():
    tok = tokenizer(sentencepiece(["▁", "a"], byte_tokens=False))
    assert encode(tok, "a€€a") == [3, 4, 0, 4]


@pytest.mark.parametrize(("prefix", "expected"), [(True, "▁ a"), (False, "a")])
def test_the_space_before_the_first_word_is_the_files_choice(prefix, expected):
    metadata = sentencepiece(["▁", "a"], add_space_prefix=prefix)
    tok = tokenizer(metadata)
    names = metadata["tokenizer.ggml.tokens"]
    assert [names[i] for i in encode(tok, "a")] == expected.split()
    for text in ("a", " a", "  a", ""):
        assert tok.decode(encode(tok, text)) == text


def test_the_space_is_put_after_every_control_token():
    tok = tokenizer(sentencepiece(["▁", "a"]))
    assert encode(tok, "a</s>a") == [259, 260, 2, 259, 260]


def test_text_that_spells_a_control_or_byte_token_stays_text():
    pieces = ["▁", *"</s>0x41", "</", "s>", "<0", "x4", "1>"]
    tok = tokenizer(sentencepiece(pieces))
    for text in ("</s>", "<0x41>"):
        ids = encode(tok, text, parse_special=False)
        assert tok.decode(ids) == text
        assert min(ids) >= 259


def test_decoding_a_continuation_keeps_the_first_space():
    tok = tokenizer(sentencepiece(["▁", "a", "▁a"]))
    ids = [261, 261]
    assert tok.decode(ids) == "a a"
    assert tok.decode(ids, continuation=True) == " a a"


def test_phi3_control_tokens_swallow_the_white_space_after_them():
    metadata = sentencepiece(["▁", "a"], others=[("<|user|>", CONTROL)])
    assert encode(tokenizer(metadata), "<|user|> \n a") == [
        261,
        *encode(tokenizer(metadata), " \n a"),
    ]
    phi = tokenizer({**metadata, "general.name": "Phi-3 mini"})
    assert encode(phi, "<|user|> \n a") == [261, 259, 260]


@pytest.mark.parametrize("prefix", [True, False])
def test_user_defined_symbols_are_cut_out_as_sentencepiece_does(tmp_path, prefix):
    trainer = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    text.write_text("\n".join(["the low lower lowest band and then than low"] * 50))
    symbols = ["<think>", "\n", "▁▁", "low▁b", "<th"]
    trainer.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "m"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=symbols,
        minloglevel=2,
    )
    oracle = trainer.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    ids = range(oracle.vocab_size())
    pieces = [oracle.id_to_piece(i) for i in ids]
    kinds = [
        USER_DEFINED if piece in symbols
        else UNKNOWN if oracle.is_unknown(i)
        else CONTROL if oracle.is_control(i)
        else BYTE if oracle.is_byte(i)
        else NORMAL
        for i, piece in enumerate(pieces)
    ]  # fmt: skip
    tok = tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": pieces,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.scores": [oracle.get_score(i) for i in ids],
            "tokenizer.ggml.add_space_prefix": prefix,
        }
    )
    rng = random.Random(3)
    parts = ["the", " low", "<think>", "\n", "  ", " ", "low b", "<th", "é", "lower", "<"]
    for _ in range(2000):
        text = "".join(rng.choices(parts, k=rng.randint(0, 7)))
        assert tok.encode(text, add_special_tokens=False) == oracle.encode(text), text
        plain = tok.encode(text, add_special_tokens=False, parse_special=False)
        assert tok.decode(plain) == text
