"""`sample`, every variant on examples worked by hand: random numbers, cuts, ties, what is no
distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import SampleCall, run_sample
from pyroclast_kernels import sample
from pyroclast_kernels.sample import cases, reference
from sample_rows import DECK, VARIANTS, drawn, logits_of, n_kept, rows_of

# ---- random numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "completion", "seed", "words"),
    [  # the known answers of the authors' Random123 library for philox4x32-10
        (0, 0, 0, 0x6627E8D5E169C58D),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, 0x408F276D41C83B0E),
        (0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822, 0xD16CFE0994FDCCEB),
    ],
)
def test_philox_known_answers(position: int, completion: int, seed: int, words: int) -> None:
    assert reference.uniform(seed, position, completion) == (words >> 11) * 2.0**-53


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_depend_on_seed_position_and_completion(variant: str) -> None:
    logits = np.zeros((1, 5000), np.float32)
    keys = [(s, p, c) for s in (0, 1, 2**40) for p in (0, 1, 2**33) for c in (0, 1)]
    tokens = [
        int(run_sample(variant, logits, rows).out["token_id"][0])
        for rows in (rows_of(seed=s, position=p, completion=c) for s, p, c in keys)
    ]
    assert tokens == [int(reference.uniform(*key) * 5000) for key in keys]
    assert len(set(tokens)) > len(keys) - 2


# ---- every stage on small examples, by hand ------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 5),
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_k": 5}, 5),
        ({"top_k": 99}, 5),
        ({"top_p": 0.0}, 1),
        ({"top_p": 0.39}, 1),
        ({"top_p": 0.41}, 2),
        ({"top_p": 0.69}, 2),
        ({"top_p": 0.71}, 3),
        ({"top_p": 0.96}, 5),
        ({"top_p": 1.0}, 5),
        ({"min_p": 0.2}, 4),  # 0.2 * 0.4 = 0.08
        ({"min_p": 0.5}, 2),
        ({"min_p": 1.0}, 1),
        # top_p is about what top_k leaves: 0.4 / 0.7 = 0.57
        ({"top_k": 2, "top_p": 0.56}, 1),
        ({"top_k": 2, "top_p": 0.58}, 2),
        # ... and what min_p leaves
        ({"min_p": 0.5, "top_p": 0.56}, 1),
        # temperature before the cuts: at 0.5 the deck is 16:9:2.25:1:0.25
        ({"temperature": 0.5, "top_p": 0.6}, 2),
        ({"temperature": 0.5, "top_p": 0.55}, 1),
        ({"temperature": 0.5, "min_p": 0.5}, 2),
        ({"temperature": 0.5, "min_p": 0.6}, 1),
        # the mean log-probability is -1.39: nearest are 0.3 (-1.20), 0.4 (-0.92), 0.15 (-1.90)
        ({"typical_p": 0.0}, 1),
        ({"typical_p": 0.29}, 1),
        ({"typical_p": 0.31}, 2),
        ({"typical_p": 0.71}, 3),
        ({"typical_p": 0.96}, 5),
        # standard deviation of the logits 0.752, the differences are 0, 0.29, 0.98, 1.39, 2.08
        ({"top_n_sigma": 0.1}, 1),
        ({"top_n_sigma": 0.5}, 2),
        ({"top_n_sigma": 1.4}, 3),
        ({"top_n_sigma": 1.4, "temperature": 5.0}, 3),
        ({"top_n_sigma": 3.0}, 5),
        ({"temperature": 0.0}, 1),
        ({"temperature": 9e-6}, 1),
    ],
)
def test_how_many_tokens_each_cut_keeps(variant: str, params: dict[str, Any], kept: int) -> None:
    assert n_kept(variant, logits_of(*DECK), **params) == kept
    shuffled = np.ascontiguousarray(logits_of(*DECK)[:, [3, 1, 4, 0, 2]])
    assert n_kept(variant, shuffled, **params) == kept


@pytest.mark.parametrize("variant", VARIANTS)
def test_typical_may_drop_the_likeliest(variant: str) -> None:
    # Entropy 1.05 nats: the ten small ones (-3.0 each) are far, 0.3 (-1.2) is nearer than 0.6.
    logits = logits_of(0.7, *[0.03] * 10)
    counts = drawn(variant, logits, 512, typical_p=0.2)
    assert counts[0] == 512
    rare = logits_of(0.3, *[0.007] * 100)
    counts = drawn(variant, rare, 2048, typical_p=0.5)
    assert counts[0] == 0
    assert np.count_nonzero(counts) == 72  # 0.5 / 0.007 = 71.4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_p": 0.25}, [0, 1]),  # eight equals: 0.125 each
        ({"top_p": 0.26}, [0, 1, 2]),
        ({"typical_p": 0.25}, [0, 1]),
        ({"min_p": 1.0}, list(range(8))),
        ({"top_n_sigma": 1.0}, list(range(8))),
        ({"temperature": 0.0}, [0]),
    ],
)
def test_ties_go_to_the_lowest_ids(variant: str, params: dict[str, Any], kept: list[int]) -> None:
    counts = drawn(variant, np.full((1, 8), -3.25, np.float32), 512, **params)
    assert np.flatnonzero(counts).tolist() == kept
    zeros = np.array([[0.0, -0.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0]], np.float32)
    assert np.array_equal(drawn(variant, zeros, 512, **params), counts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ties_of_minus_zero_on_a_long_row(variant: str) -> None:
    logits = np.zeros((1, 3001), np.float32)
    logits[0, ::2] = -0.0
    logits[0, 5] = 1.0
    logits[0, 7] = -1e-30
    assert n_kept(variant, logits, top_k=1000) == 1000
    counts = drawn(variant, logits, 2048 if variant == "numpy" else 32768, top_k=1000)
    assert np.flatnonzero(counts).max() <= 1000  # ids 0 to 1000 without 7
    assert np.flatnonzero(counts).max() > 990
    assert counts[7] == 0


# ---- what is not a distribution ------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_p": 0.9}, {"target": 1}])
@pytest.mark.parametrize("place", [0, 15, 40, 4999])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(variant: str, params: dict[str, Any], place: int, bad: float) -> None:
    logits = np.zeros((1, 5000), np.float32)
    logits[0, place] = bad
    out = run_sample(variant, logits, rows_of(**params, want_logprob=1)).out[0]
    assert (out["status"], out["token_id"], out["rank"]) == (sample.NOT_FINITE, -1, 0)
    assert math.isnan(out["logprob"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_k": 2}, {"target": 1}])
def test_nothing_allowed(variant: str, params: dict[str, Any]) -> None:
    logits = np.full((1, 50), -np.inf, np.float32)
    out = run_sample(variant, logits, rows_of(**params)).out[0]
    assert (out["status"], out["token_id"]) == (sample.NOTHING_ALLOWED, -1)
    if "target" not in params:
        logits[0, 3] = 0.0
        masked = rows_of(**params, allowed_start=0)
        out = run_sample(variant, logits, masked, allowed=sample.pack_allowed([4], 50)).out[0]
        assert (out["status"], out["token_id"]) == (sample.NOTHING_ALLOWED, -1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_minus_infinity_is_never_drawn(variant: str) -> None:
    logits = logits_of(0.0, 0.5, 0.0, 0.5, 0.0)
    for params in cases.PARAMS:
        counts = drawn(variant, logits, 256, **params)
        assert counts[[0, 2, 4]].sum() == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_rows(variant: str) -> None:
    call = SampleCall(variant, np.zeros((2, 9), np.float32), rows_of(2))
    call.arguments["n_rows"][0] = 0
    call.out["token_id"] = 55
    assert call.run().out["token_id"].tolist() == [55, 55]
