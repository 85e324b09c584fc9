"""Where a text of the fake model ends: end of text, stop strings and tokens, limits."""

import pytest

from fake_model import EOS, fake_llm, spells
from pyroclast import (
    SamplingParams,
)


def write(text, **params):
    """What comes of a model that wants to write `text`, as completion and as stream."""
    options = SamplingParams(**{"temperature": 0, "max_tokens": 40, **params})
    [out] = fake_llm(spells(text, n_prompt=2)).generate([7, 7], options)
    stream = fake_llm(spells(text, n_prompt=2)).stream([7, 7], options)
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == out.text
    assert [i for chunk in chunks for i in chunk.token_ids] == out.token_ids
    assert chunks[-1].finish_reason == out.finish_reason
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert chunks[-1].completion.text == out.text
    assert stream.completions[0].text == out.text
    return out


def test_end_of_text():
    out = write("hello")
    assert (out.text, out.finish_reason, out.stop_reason) == ("hello", "stop", EOS)
    assert out.token_ids[-1] == EOS


def test_max_tokens():
    out = write("hello", max_tokens=3)
    assert (out.text, out.finish_reason, out.stop_reason) == ("hel", "length", None)


def test_max_tokens_none_fills_the_context():
    llm = fake_llm(max_seq_len=32)
    [out] = llm.generate([1, 2], SamplingParams(seed=1, ignore_eos=True))
    assert len(out.token_ids) == 30
    assert out.finish_reason == "length"


def test_ignore_eos():
    out = write("ab", ignore_eos=True, max_tokens=5)
    assert out.token_ids == [*b"ab", EOS, EOS, EOS]
    assert (out.text, out.finish_reason) == ("ab", "length")


def test_stop_string_over_several_tokens():
    out = write("one two three", stop="tw")
    assert (out.text, out.finish_reason, out.stop_reason) == ("one ", "stop", "tw")
    assert out.token_ids == list(b"one tw")


def test_text_held_back_for_a_stop_string_comes_when_the_text_ends():
    assert write("one tw", stop="two").text == "one tw"
    assert write("one two", stop="two!", max_tokens=6).text == "one tw"


def test_a_stop_string_that_is_a_control_token_stops_at_it():
    out = write("ab", stop="<eos>", ignore_eos=True)
    assert (out.text, out.stop_reason, out.token_ids) == ("ab", "<eos>", [*b"ab", EOS])


def test_stop_token_ids():
    out = write("abc", stop_token_ids=[ord("b")])
    assert (out.text, out.finish_reason, out.stop_reason) == ("a", "stop", ord("b"))


def test_min_tokens_forbids_stop_tokens_and_stop_strings():
    out = write("a", min_tokens=3, max_tokens=3)
    assert EOS not in out.token_ids
    assert len(out.token_ids) == 3
    out = write("abababab", stop="b", min_tokens=4)
    assert out.text == "aba"  # the first "b" came too early, the second is the fourth token
    llm = fake_llm(spells("a", n_prompt=1))
    outs = llm.generate([[1], [1]], [SamplingParams(min_tokens=n, seed=1) for n in (1, 5)])
    assert [len(out.token_ids) for out in outs] == [2, 6]


@pytest.mark.parametrize("min_tokens", range(12))
def test_a_stop_string_counts_if_it_ends_at_min_tokens_or_later(min_tokens):
    out = write("one STOP two", stop="STOP", min_tokens=min_tokens, max_tokens=12)
    expected = ("one ", "stop", "STOP") if min_tokens <= 8 else ("one STOP two", "length", None)
    assert (out.text, out.finish_reason, out.stop_reason) == expected


def test_tokens_that_only_pad_the_vocabulary_have_no_text():
    llm = fake_llm(spells("ab", 1))
    llm.tokenizer.vocab_size = ord("b")
    [out] = llm.generate([1], SamplingParams(temperature=0))
    assert (out.text, out.token_ids) == ("a", [*b"ab", EOS])


def test_no_half_characters():
    text = "für 3 € 🌋"
    assert write(text).text == text
    half = write(text, max_tokens=2)
    assert half.text == "f�"
    chunks = list(fake_llm(spells("€", 1)).stream([1], SamplingParams(temperature=0)))
    assert [chunk.text for chunk in chunks] == ["", "", "€", ""]
