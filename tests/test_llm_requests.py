"""Prompts and options that are refused before any work, and those that are meant well."""

import re
from collections import UserDict

import numpy as np
import pytest

from fake_model import BOS, GREEDY, fake_llm
from pyroclast import (
    LLM,
    ContextOverflowError,
    KernelError,
    ModelFileError,
    RequestError,
    SamplingParams,
)


def without_address(value):
    """A test's id: two processes must give the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([[]], "empty"),
        (["a", ""], r"prompt 1 \(of 2, counted from 0\) is empty"),
        ([-1], "token id -1, but the vocabulary has only ids 0 to 259"),
        ([1, 260], "token id 260"),
        ([True], "True"),
        ([1.0], "1.0"),
        (["a", [1, "b"]], "'b'"),
        (b"bytes", "got bytes"),
        (bytearray(b"bytes"), "got bytearray"),
        ([bytearray(b"bytes")], "got bytearray"),
        (memoryview(b"bytes"), "got memoryview"),
        ({1, 2}, "got set"),
        (np.array(5), "got ndarray of 0 dimensions"),
        (np.zeros((1, 2, 2), int), r"\(ndarray\) in it"),
        (np.array([1.0, 2.0]), "1.0"),
        (np.array([True]), "True"),
        ({}, "one of the keys prompt, prompt_token_ids, input_ids; got none"),
        ({"text": "a"}, "got 'text'"),
        ({"prompt": [1]}, r"the prompt\['prompt'\] must be text, got list"),
        ({"prompt_token_ids": "a"}, r"\['prompt_token_ids'\] must be token ids, got str"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "one of the keys"),
        (["a", {"prompt": ""}], r"prompt 1 \(of 2, counted from 0\) is empty"),
        (7, "int"),
        (["a", 7], "int"),
        (None, "NoneType"),
    ],
    ids=without_address,
)
def test_bad_prompts(prompt, message):
    llm = fake_llm()
    with pytest.raises(RequestError, match=message):
        llm.generate(prompt, GREEDY)
    assert llm.model.steps == []


@pytest.mark.parametrize("nothing", [[], (), np.array([], int)], ids=["list", "tuple", "array"])
def test_no_prompts_give_no_results(nothing):
    llm = fake_llm()
    assert llm.generate(nothing, GREEDY) == []
    assert llm.score(nothing) == llm.score("context", nothing) == []
    for takes_one in (llm.stream, llm.logits):
        with pytest.raises(RequestError, match="the prompt is empty"):
            takes_one(nothing)
    assert llm.model.steps == []


@pytest.mark.parametrize("prompt", [np.array([5, 6]), (5, 6), [np.int64(5), np.uint8(6)]], ids=str)
def test_token_ids_of_any_integer_type(prompt):
    [out] = fake_llm().generate(prompt, GREEDY)
    assert out.prompt_token_ids == [5, 6]
    assert all(type(i) is int for i in out.prompt_token_ids)


def test_several_arrays_are_several_prompts():
    assert len(fake_llm().generate(np.array([[5, 6], [7, 8]]), GREEDY)) == 2
    outs = fake_llm().generate([np.array([5]), [7, 8]], GREEDY)
    assert [out.prompt_token_ids for out in outs] == [[5], [7, 8]]


class Tensor:
    """As torch.Tensor: in one dimension it iterates to tensors without any, which have an __index__
    and an __iter__ that raises."""

    def __init__(self, value):
        self.value = value

    def __iter__(self):
        if isinstance(self.value, int):
            raise TypeError("iteration over a 0-d tensor")
        return (Tensor(each) for each in self.value)

    def __index__(self):
        return self.value


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt_token_ids": [5, 6]},
        {"prompt_token_ids": np.array([5, 6]), "prompt": None},
        UserDict(input_ids=[5, 6], attention_mask=[1, 1]),
        [{"prompt_token_ids": (5, 6)}],
        [np.array(5), np.array(6)],
        Tensor([5, 6]),
        [Tensor([5, 6])],
    ],
    ids=without_address,
)
def test_what_is_plainly_meant_as_token_ids(prompt):
    llm = fake_llm()
    [out] = llm.generate(prompt, GREEDY)
    assert out.prompt_token_ids == [5, 6]
    assert llm.score(prompt)[0].token_ids == [5, 6]
    assert next(llm.stream(prompt, GREEDY)).n_prompt_tokens == 2
    assert llm.logits(prompt).shape[0] == 2


def test_texts_in_mappings_are_texts():
    outs = fake_llm().generate([{"prompt": "ab"}, "c"], GREEDY)
    assert [out.prompt_token_ids for out in outs] == [[BOS, *b"ab"], [BOS, *b"c"]]


def test_tensors_are_token_ids():
    torch = pytest.importorskip("torch", reason="tensors need torch: pip install torch")
    llm = fake_llm()
    for prompt in (
        torch.tensor([5, 6]),
        [torch.tensor(5), torch.tensor(6)],
        [torch.tensor([5, 6])],
    ):
        assert llm.generate(prompt, GREEDY)[0].prompt_token_ids == [5, 6]
    assert llm.generate([torch.tensor([5]), [6]], GREEDY)[0].prompt_token_ids == [5]
    with pytest.raises(RequestError, match="Tensor of 0 dimensions"):
        llm.generate(torch.tensor(5))


@pytest.mark.parametrize(
    ("n_prompt", "params", "message"),
    [
        (32, {}, "32 tokens, but the context holds 32"),
        (33, {"max_tokens": 1}, "33 tokens"),
        (30, {"max_tokens": 3}, "max_tokens=2 at most"),
        (30, {"min_tokens": 3}, "min_tokens is 3"),
    ],
)
def test_context_overflow_is_an_error_before_any_work(n_prompt, params, message):
    llm = fake_llm(max_seq_len=32)
    with pytest.raises(ContextOverflowError, match=message):
        llm.generate([[1], [1] * n_prompt], SamplingParams(**params))
    with pytest.raises(ContextOverflowError, match=message):
        llm.stream([1] * n_prompt, SamplingParams(**params))
    assert llm.model.steps == []


def test_what_fits_exactly_runs():
    llm = fake_llm(n_blocks=8, max_seq_len=32)
    [out] = llm.generate([1] * 30, SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(out.token_ids) == 2
    assert llm.logits([1] * 32).shape[0] == 32
    for read in (llm.logits, llm.score):
        with pytest.raises(ContextOverflowError, match="33 tokens, but the context holds 32"):
            read([1] * 33)


def test_a_cache_smaller_than_the_context_is_the_limit():
    llm = fake_llm(n_blocks=4, max_seq_len=128)
    with pytest.raises(ContextOverflowError, match="the context holds 16"):
        llm.generate([1] * 16, GREEDY)


def test_one_prompt_only():
    llm = fake_llm()
    for call in (llm.stream, llm.logits):
        with pytest.raises(RequestError, match="takes one prompt, got 2"):
            call(["a", "b"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, KernelError, "device must be"),
        ({"max_batch_tokens": 0}, RequestError, "max_batch_tokens must be"),
        ({"max_seqs": True}, RequestError, "max_seqs must be"),
        ({"prefix_cache": "no"}, RequestError, "prefix_cache must be True or False, got 'no'"),
        ({"embeddings": "no"}, RequestError, "embeddings must be True or False, got 'no'"),
        ({"embeddings": None}, RequestError, "embeddings must be True or False, got None"),
        ({"n_blocks": "8"}, RequestError, "n_blocks must be a whole number of at least 1, got '8'"),
        ({"threads": 1.5}, KernelError, "threads must be a whole number between 1 and 1024"),
        ({"kernels": {"norm": "numpy"}}, KernelError, "kernels must be text, .* got dict"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        LLM("no such model", **options)


@pytest.mark.parametrize("model", ["", " ", None, 5, b"model.gguf"])
def test_what_cannot_name_a_model_is_refused_and_not_read_as_a_path(model):
    with pytest.raises(ModelFileError, match=r"a model is a file, .* got "):
        LLM(model)


@pytest.mark.parametrize("n_top", [-1, 129, 1.0, True, None, "2", np.array([1, 2])])
def test_a_number_of_top_tokens_is_refused_by_its_own_name(n_top):
    with pytest.raises(RequestError, match="n_top must be a whole number from 0 to 128, got"):
        fake_llm().score("ab", n_top=n_top)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("tools", "template must be a mapping of the chat template's"),
        (["tools"], "template must be a mapping of the chat template's"),
        ({1: 2}, "template must be a mapping of the chat template's"),
        ({"self": 1}, "cannot have a variable called 'self', which is taken"),
        ({"messages": []}, "cannot have a variable called 'messages', which is taken"),
    ],
)
def test_variables_of_a_template_have_names_of_their_own(template, words):
    with pytest.raises(RequestError, match=words):
        fake_llm().chat([{"role": "user", "content": "hi"}], template=template)
