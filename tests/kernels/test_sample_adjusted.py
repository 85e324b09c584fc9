"""`sample`: bias, penalties and masks before the draw, and log-probabilities of the raw logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import run_sample
from pyroclast_kernels import sample
from pyroclast_kernels.sample import cases, reference
from sample_rows import DECK, OTHERS, VARIANTS, logits_of, rows_of

# ---- bias, penalties, mask -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_bias_comes_before_penalties(variant: str) -> None:
    logits = np.array([[1.0, 2.0, -1.0, 0.0]], np.float32)
    inputs: dict[str, Any] = {
        "biases": [(0, 3.0), (2, 4.0), (2, 1.0)],  # 4, 2, 4, 0
        "penalties": [(0, 1, 0), (2, 0, 2), (3, 0, 0)],
    }
    row = rows_of(
        temperature=0.0,
        n_biases=3,
        n_penalties=3,
        repetition_penalty=2.0,
        frequency_penalty=0.25,
        presence_penalty=0.125,
    )
    z = reference.adjusted(
        logits[0],
        row[0],
        np.array(inputs["penalties"], sample.PENALTY),
        np.array(inputs["biases"], sample.BIAS),
        np.zeros(0, np.uint32),
    )
    assert z.tolist() == [2.0, 2.0, 4.0 / 2 - 2 * 0.25 - 0.125, 0.0]
    assert run_sample(variant, logits, row, **inputs).out["token_id"][0] == 0
    row["repetition_penalty"] = 1.0
    assert run_sample(variant, logits, row, **inputs).out["token_id"][0] == 0
    inputs["penalties"][0] = (0, 0, 4)
    assert run_sample(variant, logits, row, **inputs).out["token_id"][0] == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_penalty_takes_its_own_counts(variant: str) -> None:
    logits = np.array([[1.0, 0.9, 0.5, -3.0]], np.float32)

    def chosen(n_prompt: int, n_output: int, **params: float) -> int:
        row = rows_of(temperature=0.0, n_penalties=1, **params)
        result = run_sample(variant, logits, row, penalties=[(0, n_prompt, n_output)])
        return int(result.out["token_id"][0])

    assert chosen(1, 0, repetition_penalty=1.2) == 1
    assert chosen(0, 1, repetition_penalty=1.2) == 1
    assert chosen(0, 0, repetition_penalty=1.2) == 0
    assert chosen(1, 0, presence_penalty=0.2) == 0
    assert chosen(0, 1, presence_penalty=0.2) == 1
    assert chosen(0, 9, presence_penalty=0.05) == 0
    assert chosen(9, 0, frequency_penalty=0.05) == 0
    assert chosen(0, 1, frequency_penalty=0.05) == 0
    assert chosen(0, 9, frequency_penalty=0.05) == 1
    negative = -logits
    row = rows_of(temperature=0.0, n_penalties=1, repetition_penalty=0.3)
    result = run_sample(variant, negative, row, penalties=[(0, 1, 0)])
    assert result.out["token_id"][0] == 3  # a penalty below 1 lifts -1.0 only to -0.3


@pytest.mark.parametrize("variant", OTHERS)
def test_adjusted_rows_equal_the_reference(variant: str) -> None:
    rng = np.random.default_rng(5)
    for vocab_size in (1, 31, 32, 33, 1000, 5003):
        n = min(vocab_size, 40)
        logits = cases.RowCase("model", vocab_size).logits()[None]
        inputs: dict[str, Any] = {
            "penalties": [(t, t % 2, t % 3) for t in rng.permutation(vocab_size)[:n]],
            "biases": [(t, rng.normal() * 5) for t in rng.permutation(vocab_size)[:n]],
            "allowed": sample.pack_allowed(rng.permutation(vocab_size)[: n * 2], vocab_size),
        }
        for seed in range(20):
            row = rows_of(
                seed=seed,
                n_penalties=n,
                n_biases=n,
                allowed_start=0,
                repetition_penalty=1.3,
                presence_penalty=0.4,
                frequency_penalty=-0.2,
                want_logprob=1,
            )
            want = run_sample("numpy", logits, row, **inputs).out[0]
            got = run_sample(variant, logits, row, **inputs).out[0]
            assert got["token_id"] == want["token_id"]
            assert got["n_kept"] == want["n_kept"]
            assert got["rank"] == want["rank"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_huge_biases_are_clipped_not_infinite(variant: str) -> None:
    logits = np.array([[0.0, 3.0e38, 1.0]], np.float32)
    row = rows_of(temperature=0.0, n_biases=1)
    assert run_sample(variant, logits, row, biases=[(1, 3.0e38)]).out["token_id"][0] == 1
    assert run_sample(variant, logits, row, biases=[(1, -np.inf)]).out["token_id"][0] == 2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("only", [0, 31, 32, 69])
@pytest.mark.parametrize("params", cases.PARAMS, ids=str)
def test_everything_masked_but_one(variant: str, only: int, params: dict[str, Any]) -> None:
    logits = cases.RowCase("wide", 70).logits()[None]
    row = rows_of(**params, allowed_start=0)
    out = run_sample(variant, logits, row, allowed=sample.pack_allowed([only], 70)).out[0]
    assert (out["status"], out["token_id"], out["n_kept"]) == (sample.OK, only, 1)


# ---- log-probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("vocab_size", [1, 17, 1000, 5003])
def test_reports_are_about_the_raw_logits(variant: str, vocab_size: int) -> None:
    logits = cases.RowCase("steps", vocab_size).logits()[None]
    logs = reference.log_softmax(logits[0])
    n_top = min(5, vocab_size)
    row = rows_of(temperature=2.0, want_logprob=1, n_top=n_top, n_biases=1, top_k=7)
    result = run_sample(variant, logits, row, biases=[(0, 50.0)])
    out = result.out[0]
    assert out["token_id"] == 0  # the bias sees to it, but is not in the report
    assert abs(out["logprob"] - logs[0]) <= cases.LOGPROB_TOLERANCE + abs(logs[0]) * 2.0**-24
    assert out["rank"] == 1 + np.count_nonzero(logits[0] > logits[0, 0])
    assert out["is_greedy"] == (np.argmax(logits[0]) == 0)
    best = reference.falling(logits[0])[:n_top]
    assert result.top_ids[0, :n_top].tolist() == best.tolist()
    assert np.allclose(result.top_logprobs[0, :n_top], logs[best], atol=cases.LOGPROB_TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_targets_are_scored_not_drawn(variant: str) -> None:
    logits = cases.RowCase("steps", 100).logits()[None]
    logs = reference.log_softmax(logits[0])
    for target in range(100):
        out = run_sample(variant, logits, rows_of(target=target, want_logprob=1)).out[0]
        assert (out["token_id"], out["n_kept"], out["status"]) == (target, 0, sample.OK)
        assert abs(out["logprob"] - logs[target]) < 1e-5
        assert out["rank"] == 1 + np.count_nonzero(logits[0] > logits[0, target])
        assert out["is_greedy"] == (np.argmax(logits[0]) == target)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_for_first_place_share_a_rank_but_one_is_greedy(variant: str) -> None:
    logits = np.array([[1.0, 3.0, 3.0]], np.float32)
    outs = [run_sample(variant, logits, rows_of(target=t, want_logprob=1)).out[0] for t in (1, 2)]
    assert [(out["rank"], out["is_greedy"]) for out in outs] == [(1, 1), (1, 0)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_fewer_tokens_than_asked_for(variant: str) -> None:
    logits = np.array([[-np.inf, 1.0, -np.inf, 2.0]], np.float32)
    result = run_sample(variant, logits, rows_of(n_top=4))
    assert result.top_ids[0, :5].tolist() == [3, 1, -1, -1, 0]
    assert result.top_logprobs[0, 2:4].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_reported_unless_asked(variant: str) -> None:
    result = run_sample(variant, logits_of(*DECK), rows_of())
    assert math.isnan(result.out["logprob"][0])
    assert (result.out["rank"][0], result.out["is_greedy"][0]) == (0, 0)
    assert not result.top_ids.any()
