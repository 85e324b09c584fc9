"""A draft model beside real models: loading both, their vocabularies and memory, and the bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from babble import FLAT, accepted, drafted, plain
from pyroclast import (
    LLM,
    MemoryBudgetError,
    SamplingParams,
    TokenizerError,
    UnsupportedModelError,
)
from pyroclast.engine.draft_speculator import DraftSpeculator
from pyroclast.model import kv_cache
from pyroclast.text.same_vocabulary import check_same_vocabulary
from pyroclast.text.tokenizer import Tokenizer

PROMPT = [1, 7, 200, 33, 5] * 4


def write(folder: Path, name: str, seed: int = 0, **changes: int) -> Path:
    config = replace(tiny.CONFIGS[name], **changes)  # type: ignore[arg-type]
    path = folder / f"{name}-{seed}.gguf"
    return tiny.write_gguf(path, config, tiny.random_weights(config, seed), "Q8_0")


def eager(llm: LLM) -> LLM:
    """Asks the draft model before every step."""
    stepper = llm._loop.stepper
    old = stepper._speculator
    assert isinstance(old, DraftSpeculator)
    now = [0.0]
    forward = llm.model.forward

    def step(sample: bool = False) -> None:
        now[0] += 1
        forward(sample)

    llm.model.forward = step  # type: ignore[method-assign]
    stepper._speculator = DraftSpeculator(old.draft, 0.0, FLAT, lambda: now[0])
    return llm


@pytest.mark.parametrize(
    ("main", "second", "kv_dtype"),
    [
        ("llama", "llama", "auto"),
        ("mistral", "llama-mha", "q8_0"),
        pytest.param("qwen3_5", "llama", "f16", marks=pytest.mark.oracle),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_logprobs_and_cached_blocks_have_the_same_bits(
    tmp_path: Path, main: str, second: str, kv_dtype: str
) -> None:
    """Over the ends of blocks (32 positions), a window of 24 (mistral) and states (qwen3_5)."""
    if main == "qwen3_5":
        import tiny_families

        path = tmp_path / "folder"
        tiny_families.write_folder(path, main)
    else:
        path = write(tmp_path, main)
    other = path if main == second else write(tmp_path, second, 1)
    params = SamplingParams(temperature=0.4, seed=3, max_tokens=50, ignore_eos=True, logprobs=2)
    with LLM(path, threads=1, speculation="off", kv_dtype=kv_dtype, prefix_cache=False) as off:
        expected = off.generate(PROMPT, params.replace(n=2))
        longer = [*PROMPT, *expected[0].token_ids, 9, 9]
        expected_longer = off.generate(longer, params.replace(max_tokens=12))
    with eager(LLM(path, threads=1, speculation="draft", draft=other, kv_dtype=kv_dtype)) as on:
        found = on.generate(PROMPT, params.replace(n=2))
        assert plain(found) == plain(expected)
        if main == second:
            assert accepted(found) == drafted(found) > 60
        assert drafted(found) > 0
        assert plain(on.generate(longer, params.replace(max_tokens=12))) == plain(expected_longer)


def test_new_weights_of_the_model_leave_the_draft_model_as_it_is(tmp_path: Path) -> None:
    path, params = write(tmp_path, "llama"), SamplingParams(temperature=0, seed=1, max_tokens=20)
    name = "token_embd.weight"
    weights = tiny.random_weights(tiny.BASE, 3)
    with LLM(path, threads=1, speculation="off") as off:
        off.update_weights({name: weights["token_embd"]})
        expected = off.generate(PROMPT, params)
    with eager(LLM(path, threads=1, speculation="draft", draft=path)) as on:
        on.generate(PROMPT, params)
        on.update_weights({name: weights["token_embd"]})
        assert plain(on.generate(PROMPT, params)) == plain(expected)


# ---- refusals --------------------------------------------------------------------------------


def test_a_recurrent_model_cannot_draft(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be a draft model: it has recurrent"):
        LLM(write(tmp_path, "llama"), threads=1, draft="dummy:qwen3.5-2b@q4_0")


def test_the_memory_of_both_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "llama")
    with LLM(path, threads=1, n_blocks=8) as alone:
        n_bytes = sum(alone.model.plan.n_bytes.values())  # type: ignore[attr-defined]
    monkeypatch.setattr(kv_cache, "available_bytes", lambda: int(1.5 * n_bytes))
    LLM(path, threads=1, n_blocks=8).close()
    with pytest.raises(MemoryBudgetError, match="the draft model and its cache need"):
        LLM(path, threads=1, n_blocks=8, draft=path)


def vocabulary(tokens: list[str], control: tuple[int, ...] = ()) -> Tokenizer:
    kinds = [3 if i in control else 1 for i in range(len(tokens))]
    return Tokenizer.from_gguf_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": [],
        }
    )


def test_vocabularies_are_compared_token_by_token() -> None:
    letters = list("abcdefgh")
    one = vocabulary([*letters, "<end>"], control=(8,))
    check_same_vocabulary(one, "one", vocabulary([*letters, "<end>"], control=(8,)), "other")
    longer = vocabulary([*letters, "<end>", "<pad>"], control=(8, 9))
    check_same_vocabulary(one, "one", longer, "other")
    check_same_vocabulary(longer, "other", one, "one")
    swapped = vocabulary([*letters[:6], "h", "g", "<end>"], control=(8,))
    with pytest.raises(TokenizerError, match=r"other cannot draft for one: .* token 6 is b'g' in"):
        check_same_vocabulary(one, "one", swapped, "other")
    plain_end = vocabulary([*letters, "<end>"])
    with pytest.raises(TokenizerError, match="token 8, b'<end>', is special in one"):
        check_same_vocabulary(one, "one", plain_end, "other")


def test_a_model_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "llama")
    with pytest.raises(TokenizerError, match=r"cannot draft for .* same tokenizer"):
        LLM(path, threads=1, draft="dummy:smollm2-135m:1@q4_0")
