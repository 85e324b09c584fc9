"""One step's ops, their bytes against the model's own count, and what grammars and caches spare."""

from __future__ import annotations

import numpy as np
import pytest

from pyroclast import LLM, SamplingParams, lens
from pyroclast.lens import ops

IDS = [256, *range(70)]


def test_the_ops_are_those_of_the_step_and_their_bytes_those_of_the_weights(
    tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_MIN_READ_BYTES", 1 << 20)
    logits = tiny_llm.logits(IDS)
    found = lens.hood(tiny_llm, IDS, SamplingParams(ignore_eos=True), max_tokens=3)
    assert (found.n_context, found.n_threads) == (71, 1)
    calls = tiny_llm.model.program().calls  # type: ignore[attr-defined]
    assert sum(op.n_calls for op in found.ops) == len(calls)
    for op in found.ops:
        assert op.variant in {c.kernel.variant for c in calls if op.op.startswith(c.kernel.op)}
    assert np.isclose(sum(op.time_us for op in found.ops), found.step_us) and found.step_us > 0
    times = [op.time_us for op in found.ops]
    assert times == sorted(times, reverse=True)
    [attention] = [op for op in found.ops if op.op.startswith("attention")]
    # Two layers, keys and values of 2 heads of 16 numbers, 71 positions of a block's 32.
    block = sum(array.nbytes for array in tiny_llm.model.block_arrays(0))
    assert attention.n_bytes == 2 * (block // 2 * 71 // 32)
    weights = sum(op.n_bytes or 0 for op in found.ops if op is not attention)
    assert weights == tiny_llm.model.weight_bytes
    assert found.read_gb_s is not None and found.read_gb_s > 0
    assert attention.share is not None
    assert np.isclose(
        attention.share, attention.n_bytes / attention.time_us / 1e3 / found.read_gb_s
    )
    assert found.grammar is None
    assert found.timings.n_completion_tokens == 3 and found.timings.n_cached_tokens == 64
    np.testing.assert_array_equal(tiny_llm.logits(IDS), logits)
    pool = tiny_llm._loop.stepper.scheduler.pool
    assert pool.n_available == pool.n_blocks


def test_what_a_grammar_forbids_and_forces(demo_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_rates", {(demo_llm.n_threads, ops._MAX_READ_BYTES): 10.0})
    monkeypatch.setattr(ops, "_MIN_READ_BYTES", ops._MAX_READ_BYTES)
    params = SamplingParams(structured={"choice": ["red wine", "red beer"]})
    found = lens.hood(demo_llm, "I drink", params, max_tokens=4)
    assert found.grammar is not None and found.read_gb_s == 10.0
    text = b"".join(map(demo_llm.tokenizer.token_bytes, found.grammar.forced)).decode()
    assert "red ".startswith(text) and text
    prefixes = [b"r", b"re", b"red", b"red ", b"red w", b"red b"]
    n_allowed = demo_llm.vocab_size - found.grammar.n_forbidden
    assert 1 <= n_allowed <= len(prefixes) + 8
