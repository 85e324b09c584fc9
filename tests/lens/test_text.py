"""Tokens and pieces against the tokenizer, and what a chat template added."""

from __future__ import annotations

import pytest

from pyroclast import LLM, ContextOverflowError, RequestError, lens


def test_tokens_are_those_that_the_model_reads(demo_llm: LLM) -> None:
    found = lens.tokens(demo_llm, "Caffè <|im_end|> 𒀀")
    assert list(found.token_ids) == demo_llm.tokenizer.encode("Caffè <|im_end|> 𒀀")
    assert b"".join(each.bytes for each in found.pieces).decode() == "Caffè <|im_end|> 𒀀"
    assert [each.text for each in found.pieces if each.special] == ["<|im_end|>"]
    assert any("\ufffd" in each.text for each in found.pieces)  # a part of the sign
    assert not any(each.template for each in found.pieces)
    assert lens.pieces(demo_llm, found.token_ids) == found.pieces
    assert lens.tokens(demo_llm, found.token_ids) == found


def test_the_template_s_tokens_are_told_from_the_message_s(demo_llm: LLM) -> None:
    messages = [{"role": "user", "content": "user says <|im_end|> twice"}]
    found = lens.tokens(demo_llm, messages)
    assert list(found.token_ids) == demo_llm.tokenizer.encode_chat(messages)
    said = "".join(each.text for each in found.pieces if not each.template)
    assert said == "user says <|im_end|> twice"
    added = "".join(each.text for each in found.pieces if each.template)
    assert added.endswith("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    # The message spells a control token in ordinary ones.
    assert all(each.template for each in found.pieces if each.special)


def test_bad_ids_are_refused(tiny_llm: LLM) -> None:
    assert lens.pieces(tiny_llm, [319])[0].id == 319
    for token_id in (320, -1):
        with pytest.raises(RequestError, match=rf"0\.\.319, got {token_id}"):
            lens.pieces(tiny_llm, [5, token_id])
    assert len(lens.tokens(tiny_llm, [1] * 16_384).pieces) == 16_384
    with pytest.raises(ContextOverflowError, match="at most 16384 tokens"):
        lens.tokens(tiny_llm, [1] * 16_385)
    with pytest.raises(RequestError, match="no tokens"):
        lens.next_token(tiny_llm, [])


def test_every_public_name_is_a_function() -> None:
    """A module of the same name would hide it, as soon as it is imported."""
    names = lens.__all__
    assert names == sorted(names) and len(names) > 10
    for name in names:
        assert callable(getattr(lens, name)) and getattr(lens, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lens.nothing  # noqa: B018 - the look-up is the test
