"""One step's ops, their bytes against the model's own count, and what grammars and caches spare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_files import random_pairs, write_peft
from pyroclast import LLM, SamplingParams, lens
from pyroclast.lens import ops
from pyroclast.lens.inside import between
from pyroclast.lens.one_step import OneStep
from tiny import CONFIGS, random_weights, write_folder

IDS = [256, *range(70)]


def test_the_ops_are_those_of_the_step_and_their_bytes_those_of_the_weights(
    tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_MIN_READ_BYTES", 1 << 20)
    logits = tiny_llm.logits(IDS)
    found = lens.hood(tiny_llm, IDS, SamplingParams(ignore_eos=True), max_tokens=3)
    assert (found.n_context, found.n_threads) == (71, 1)
    # The engine's own program: the model's calls, and the sampler behind them.
    calls = tiny_llm.model.program(sample=True).calls  # type: ignore[attr-defined]
    assert calls[-1].kernel.op == "sample"
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
    assert found.timings.n_completion_tokens == 3 and found.timings.n_cached_tokens == 70
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


def test_the_step_draws_the_token_of_the_engine(tiny_llm: LLM) -> None:
    """What is timed is the real draw: the same logits, settings and callables."""
    settings = {
        "seed": 7, "temperature": 1.4, "top_p": 0.9, "repetition_penalty": 1.3,
        "logit_bias": {9: 2.0}, "allowed_token_ids": range(250), "ignore_eos": True,
    }  # fmt: skip
    params = SamplingParams(**settings)
    only = SamplingParams(
        logits_processors=[lambda _, row: np.where(np.arange(320) == 8, row, -99)]
    )
    for given in (params, SamplingParams(temperature=0), only):
        [answer] = tiny_llm.generate(IDS, given.replace(max_tokens=1))
        step = OneStep(tiny_llm, IDS, given.replace(max_tokens=1), None)
        times = between(tiny_llm, step.profile)
        assert len(times) == len(step.calls) and times[-1] > 0
        assert step.calls[-1].arguments["out"]["token_id"][0] == answer.token_ids[0]


def test_an_adapter_is_read_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "model", CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    adapter = write_peft(tmp_path / "x", random_pairs(CONFIGS["llama"], 4))
    with LLM(path, threads=1, adapters={"x": adapter}) as llm:
        reads, assigned = [], []
        assign = llm.model.adapters.assign

        def noted(slots: Any) -> None:
            assigned.append(list(slots))
            assign(slots)

        monkeypatch.setattr(llm.model.adapters, "assign", noted)
        for name in ("x", None):
            step = OneStep(llm, IDS, SamplingParams(max_tokens=1, seed=1), name)
            between(llm, step.profile)
            assert assigned[-1] == [0 if name else None]
            found = lens.hood(llm, IDS, max_tokens=1, adapter=name)
            reads.append(sum(op.n_bytes or 0 for op in found.ops if op.op.startswith("low_rank")))
        pairs = random_pairs(CONFIGS["llama"], 4)
        assert reads == [sum(4 * (a.size + b.size) for a, b in pairs.values()), 0]
