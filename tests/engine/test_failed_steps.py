"""A callable of one request fails in a step that has computed tokens of others as well: what the
step wrote, and nobody has seen the logits of, is read by nobody.

Token 99 is a NaN in every layer.  Caches of these formats are read in pairs: a position too far,
with weight zero, from every even position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from fake_model import ByteTokenizer, FakeModel, hashed
from pyroclast import LLM, SamplingError, SamplingParams
from pyroclast.engine.sample_writer import SampleWriter
from pyroclast.llm import assemble
from recurrent_model import RecurrentModel

PROMPT = [1, 2, 3]
PARAMS = SamplingParams(seed=2, max_tokens=12, ignore_eos=True, logit_bias={99: -100.0})
FORMATS = ("bf16", "q8_0")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = tiny.random_weights(tiny.BASE)
    weights["token_embd"][99] = np.nan
    return tiny.write_gguf(tmp_path_factory.mktemp("nan") / "nan.gguf", tiny.BASE, weights)


def answer(llm: LLM, prompt: list[int], **changes: Any) -> list[int]:
    [completion] = llm.generate([prompt], PARAMS.replace(**changes))
    return completion.token_ids


def fails(token_ids: list[int], logits: Any) -> Any:
    raise ZeroDivisionError("mine")


def strict(token_ids: list[int], logits: Any) -> Any:
    """Asks for token 99, and fails at what comes of it."""
    if np.isnan(logits).any():
        raise ZeroDivisionError("mine")
    logits[99] = 200
    return logits


def fail(llm: LLM, prompt: list[int], process: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        answer(llm, prompt, logits_processors=[process])


# Later texts copy the block, or, without the cache, take it.
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "free"])
@pytest.mark.parametrize("who", ["failed", "cancelled"])
@pytest.mark.parametrize("kv_dtype", FORMATS)
def test_who_ends_with_such_a_step_leaves_no_nan(
    path: Path, kv_dtype: str, who: str, is_kept: bool
) -> None:
    with LLM(path, threads=1, kv_dtype=kv_dtype, prefix_cache=is_kept) as llm:
        if who == "failed":
            fail(llm, PROMPT, strict)
        else:
            sick = llm.stream(PROMPT, PARAMS.replace(logit_bias={99: 200.0}))
            assert next(sick).token_ids == [99]
            fail(llm, [7, 8], fails)
            sick.close()
        got = answer(llm, PROMPT)
    with LLM(path, threads=1, kv_dtype=kv_dtype) as llm:
        assert answer(llm, PROMPT) == got


@pytest.mark.parametrize("kv_dtype", FORMATS)
def test_drafts_of_such_a_step_leave_no_nan(path: Path, kv_dtype: str) -> None:
    with LLM(path, threads=1, kv_dtype=kv_dtype) as llm:
        expected = answer(llm, PROMPT)
        stream = llm.stream(PROMPT, PARAMS)
        got = next(stream).token_ids + next(stream).token_ids
        [request] = stream._requests
        llm._loop.stepper.propose(request, [99] * 5)
        fail(llm, [7, 8], fails)
        got += [token_id for chunk in stream for token_id in chunk.token_ids]
    assert got == expected


def poisoned(history: Any) -> Any:
    return hashed(history) * np.float32(np.nan if 99 in history else 1)


@pytest.mark.parametrize("model", [FakeModel, RecurrentModel])
@pytest.mark.parametrize(("draft", "n_computed"), [(5, 5), (99, 0)])
def test_only_drafts_that_brought_a_nan_send_their_text_back(
    model: type[FakeModel], draft: int, n_computed: int
) -> None:
    """The others do the same step again."""
    made = model()
    made.logits_of = poisoned
    llm = assemble(made, ByteTokenizer(), "fake", "off", prefix_cache=False)
    expected = answer(llm, PROMPT)
    stream = llm.stream(PROMPT, PARAMS)
    got = [token_id for _ in range(3) for token_id in next(stream).token_ids]
    [request] = stream._requests
    llm._loop.stepper.propose(request, [draft] * 2)
    fail(llm, [7, 8], fails)
    assert request.n_computed == n_computed
    got += [token_id for chunk in stream for token_id in chunk.token_ids]
    assert got == expected


def test_a_grammar_that_fails_before_the_model_runs_sends_no_text_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logits are those of an earlier step, and tell nothing of the drafts."""
    write = SampleWriter._write_mask

    def stuck(self: SampleWriter, request: Any, *rest: Any) -> None:
        if request.n_prompt == 2:
            raise SamplingError("mine")
        write(self, request, *rest)

    monkeypatch.setattr(SampleWriter, "_write_mask", stuck)
    made = FakeModel()
    llm = assemble(made, ByteTokenizer(), "fake", "off", prefix_cache=False)
    expected = answer(llm, PROMPT)
    stream = llm.stream(PROMPT, PARAMS)
    got = [token_id for _ in range(3) for token_id in next(stream).token_ids]
    [request] = stream._requests
    llm._loop.stepper.propose(request, [5] * 2)
    made.logits[:] = np.nan
    with pytest.raises(SamplingError, match="mine"):
        answer(llm, [7, 8])
    assert (request.n_computed, request.n_unproven) == (5, 0)
    got += [token_id for chunk in stream for token_id in chunk.token_ids]
    assert got == expected


def nans_in_free_blocks(llm: LLM) -> list[int]:
    """Free blocks that are not marked for clearing, and hold a NaN."""
    pool, model = llm._loop.stepper.scheduler.pool, llm.model
    free = [block for block in pool._free if block not in pool._soiled]
    return [b for b in free if any(np.isnan(bf16(x)).any() for x in model.block_arrays(b))]


def bf16(cells: Any) -> Any:
    return (np.asarray(cells).astype(np.uint32) << 16).view(np.float32)


def test_a_block_that_is_given_for_an_equal_one_is_cleared(path: Path) -> None:
    """Two read the same prompt side by side, and the first one's block is kept for both."""
    with LLM(path, threads=1, kv_dtype="bf16", max_batch_tokens=16, n_blocks=32) as llm:
        prompt = [1, 2, 99] + [3] * 2 * llm.model.block_size
        late, soon = (llm.stream(prompt, PARAMS) for _ in range(2))
        late._requests[0].call.priority = "batch"
        loop = llm._loop
        loop.submit(late._requests)
        loop._clean_up()
        loop.stepper.step()
        loop.submit(soon._requests)
        loop._clean_up()
        for _ in range(40):
            if loop.stepper.has_work():
                loop.stepper.step()
            assert not nans_in_free_blocks(llm)
