"""`sample`: the reference on examples worked by hand, and every variant against the reference."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import SampleCall, run_sample, usable_variants
from pyroclast_kernels import sample
from pyroclast_kernels.cases import expected, op_cases
from pyroclast_kernels.sample import cases, reference
from pyroclast_kernels.selection import all_variants

VARIANTS = usable_variants("sample")
OTHERS = [name for name in VARIANTS if name != "numpy"]
TOLERANCE = cases.CDF_TOLERANCE


def rows_of(n_rows: int = 1, **params: Any) -> Any:
    rows = sample.new_rows(n_rows)
    for name, value in params.items():
        rows[name] = value
    return rows


def logits_of(*probs: float) -> Any:
    """float32 (1, n): logits whose softmax is probs."""
    with np.errstate(divide="ignore"):
        return np.log(np.array([probs])).astype(np.float32)


def n_kept(variant: str, logits: Any, **params: Any) -> int:
    return int(run_sample(variant, logits, rows_of(**params)).out["n_kept"][0])


def drawn(variant: str, logits: Any, n: int, **params: Any) -> Any:
    """int64 (vocab_size,): how often each token comes up in n draws, one per position."""
    vocab_size = logits.shape[1]
    counts = np.zeros(vocab_size, np.int64)
    chunk = min(n, 8192)
    rows = rows_of(chunk, **params)
    same = np.lib.stride_tricks.as_strided(logits, (chunk, vocab_size), (0, 4))
    call = SampleCall(variant, same, rows)
    for start in range(0, n, chunk):
        rows["position"] = np.arange(start, start + chunk)
        counts += np.bincount(call.run().out["token_id"], minlength=vocab_size)
    return counts


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

DECK = (0.4, 0.3, 0.15, 0.1, 0.05)


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


# ---- every variant against the reference ---------------------------------------------------------


def assert_like_reference(out: Any, z: Any, row: Any) -> None:
    """The token and n_kept are the reference's, or differ as far as rounding allows."""
    assert out["status"] == sample.OK
    if (out["token_id"], out["n_kept"]) == reference.choose(z, row):
        return
    assert row["temperature"] >= sample.MIN_TEMPERATURE
    least, most = (reference.choose(z, cases.relaxed(row, c))[1] for c in (-TOLERANCE, TOLERANCE))
    assert least <= out["n_kept"] <= most
    if row["typical_p"] < 1:
        # Two tokens on either side of the mean may be equally far but for the last place, and then
        # change places in the order; what can be drawn is no farther than the reference's farthest.
        before = row.copy()
        before["typical_p"] = before["top_p"] = 1.0
        w = reference.weights(z, reference.stages(z, before)[-1].kept, float(row["temperature"]))
        x = z.astype(np.float64)
        distance = np.abs(x - np.sum((w * x)[w > 0]) / w.sum())
        farthest = distance[reference.stages(z, cases.relaxed(row, TOLERANCE))[-1].kept].max()
        assert distance[out["token_id"]] <= farthest * (1 + 1e-5)
        return
    final = reference.stages(z, cases.relaxed(row, TOLERANCE))[-1]
    w = reference.weights(z, final.kept, float(row["temperature"]))
    u = reference.uniform(int(row["seed"]), int(row["position"]))
    low, high = reference.cdf_interval(w, int(out["token_id"]))
    assert low - TOLERANCE <= u <= high + TOLERANCE


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("logits_name", list(cases.LOGITS))
def test_equals_the_reference(variant: str, logits_name: str) -> None:
    for case in cases.row_cases():
        if case.logits_name == logits_name:
            z, row = case.logits(), case.row(seed=7, position=case.vocab_size)
            assert_like_reference(run_sample(variant, z[None], row).out[0], z, row[0])


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("logits_name", list(cases.LOGITS))
def test_whole_vocabulary_equals_the_reference(variant: str, logits_name: str) -> None:
    for params in ({"top_p": 0.95}, {"top_k": 5000, "temperature": 3.0}, {"typical_p": 0.9}):
        case = cases.RowCase(logits_name, cases.VOCAB_SIZE, params)
        z, row = case.logits(), case.row(seed=11)
        assert_like_reference(run_sample(variant, z[None], row).out[0], z, row[0])


@pytest.mark.parametrize("variant", OTHERS)
def test_exact_where_sums_are_exact(variant: str) -> None:
    """Equal logits weigh 1 each, so float32 sums are exact and so is every cut."""
    for n in (1, 5, 16, 127, 128, 129, 1024, 1025, 20000, cases.VOCAB_SIZE):
        logits = np.full((1, n), 2.5, np.float32)
        for top_p in (0.5, 0.95, 0.999):
            assert n_kept(variant, logits, top_p=top_p) == min(n, math.ceil(top_p * n))
        assert n_kept(variant, logits, top_k=n - 1) == max(n - 1, 1)


@pytest.mark.parametrize("variant", OTHERS)
def test_top_k_is_exact_for_every_k(variant: str) -> None:
    logits = cases.RowCase("steps", 3000).logits()[None]
    order = reference.falling(logits[0])
    for k in (1, 2, 3, 50, 127, 128, 129, 500, 1023, 2000, 2999):
        assert n_kept(variant, logits, top_k=k) == k
        counts = drawn(variant, logits, 4096, top_k=k, temperature=100.0)
        assert set(np.flatnonzero(counts)) <= set(order[:k].tolist())


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


# ---- reproducibility -----------------------------------------------------------------------------


def batch() -> tuple[Any, Any]:
    """Rows of every kind side by side."""
    rows = rows_of(len(cases.PARAMS), n_top=3, want_logprob=1)
    for r, params in enumerate(cases.PARAMS):
        for name, value in params.items():
            rows[name][r] = value
        rows["seed"][r], rows["position"][r] = r, 100 + r
    kinds = list(cases.LOGITS)
    logits = [cases.RowCase(kinds[r % len(kinds)], 3001).logits(r) for r in range(len(rows))]
    return np.stack(logits), rows


@pytest.mark.parametrize("variant", OTHERS)
def test_rows_alone_in_a_batch_and_in_parts(variant: str) -> None:
    logits, rows = batch()
    together = run_sample(variant, logits, rows)
    for n_parts in (2, 3, 8, 64):
        parts = run_sample(variant, logits, rows, n_parts=n_parts)
        assert parts.out.tobytes() == together.out.tobytes()
        assert np.array_equal(parts.top_ids, together.top_ids)
    for r in range(len(rows)):
        alone = run_sample(variant, logits[r : r + 1], rows[r : r + 1])
        assert alone.out.tobytes() == together.out[r : r + 1].tobytes()


@pytest.mark.parametrize("variant", OTHERS)
def test_rows_may_lie_apart_and_unaligned(variant: str) -> None:
    logits, rows = batch()
    wide = np.full((len(rows), 3001 + 37), np.nan, np.float32)
    wide[:, 5:3006] = logits
    want = run_sample(variant, logits, rows)
    got = run_sample(variant, wide[:, 5:3006], rows)
    assert got.out.tobytes() == want.out.tobytes()


@pytest.mark.parametrize("variant", OTHERS)
def test_variants_of_one_bit_group_agree_to_the_bit(variant: str) -> None:
    logits, rows = batch()
    mine = run_sample(variant, logits, rows)
    groups = {name: all_variants("sample")[name].bit_group for name in OTHERS}
    for other in OTHERS:
        if groups[other] == groups[variant]:
            theirs = run_sample(other, logits, rows)
            assert theirs.out.tobytes() == mine.out.tobytes()
            assert theirs.top_logprobs.tobytes() == mine.top_logprobs.tobytes()


@pytest.mark.parametrize("variant", OTHERS)
def test_every_variant_draws_the_same_text(variant: str) -> None:
    """Sums may differ in their last places from one technology to another; a token changes only
    where the random number falls within 4e-6 of a step, which none of these fixed ones does."""
    for params in ({"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.95, "top_k": 200}):
        rows = rows_of(256, **params)
        rows["seed"], rows["position"] = 42, np.arange(256)
        one = cases.RowCase("normal", 4001).logits()
        logits = np.lib.stride_tricks.as_strided(one, (256, 4001), (0, 4))
        wanted = run_sample(OTHERS[0], logits, rows).out["token_id"]
        assert np.array_equal(run_sample(variant, logits, rows).out["token_id"], wanted)
        assert len(set(wanted.tolist())) > 20


def test_what_a_case_allows() -> None:
    """Counts may differ where the reference's own would at a cut 4e-6 away; all else is exact."""
    for case in op_cases("sample"):
        before, after = expected(case)
        out = after["out"]
        allowed = {name: case.bound(before, out[[name]]) for name in out.dtype.names}
        exact = [name for name in out.dtype.names if name not in ("n_kept", "logprob")]
        assert all(np.all(allowed[name] < 1) for name in exact)
        assert np.all(allowed["n_kept"] <= 0.5 + 1e-3 * out["n_kept"].clip(9000))
        if case.name.startswith("mixed"):
            assert np.count_nonzero(allowed["n_kept"] >= 1) <= 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_rows(variant: str) -> None:
    call = SampleCall(variant, np.zeros((2, 9), np.float32), rows_of(2))
    call.arguments["n_rows"][0] = 0
    call.out["token_id"] = 55
    assert call.run().out["token_id"].tolist() == [55, 55]


@pytest.mark.parametrize("variant", OTHERS)
def test_scratch_memory_is_as_large_as_said(variant: str) -> None:
    for vocab_size in (1, 63, 64, 1000, 20001):
        size = sample.scratch_bytes(vocab_size)
        for kind in ("flat", "normal", "holes"):
            logits = cases.RowCase(kind, vocab_size).logits()[None]
            for params in cases.PARAMS:
                call = SampleCall(variant, logits, rows_of(**params, want_logprob=1, n_top=1))
                beyond = call.grow_scratch(4096)[0, size:]
                call.run()
                assert (beyond == 0xAB).all()


# ---- statistics ----------------------------------------------------------------------------------


def chi_square_sigmas(counts: Any, probs: Any) -> float:
    """How many standard deviations of its distribution the statistic lies above its mean
    (Wilson and Hilferty's transform); tokens with fewer than 10 expected are taken together."""
    expected = probs * counts.sum()
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    k = len(expected) - 1
    if k == 0:
        return 0.0
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return float(((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)))


STATISTICS = cases.RowCase("normal", 120).logits()[None]


def first_of_each_technology() -> set[str]:
    """The best variant that runs here of each technology: C++, Cython, Numba."""
    firsts = {name.partition("-")[0]: name for name in reversed(OTHERS)}
    return set(firsts.values())


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("params", cases.PARAMS, ids=str)
def test_a_million_draws_follow_the_distribution(variant: str, params: dict[str, Any]) -> None:
    row = rows_of(**params)[0]
    if row["temperature"] == 0:
        probs = np.eye(1, 120, int(np.argmax(STATISTICS)))[0]
    else:
        kept = reference.stages(STATISTICS[0], row)[-1].kept
        w = reference.weights(STATISTICS[0], kept, float(row["temperature"]))
        probs = w / w.sum()
    # The others give (nearly) the same tokens: see test_every_variant_draws_the_same_text.
    n = 200_000 if variant in first_of_each_technology() else 50_000
    n = 1_000_000 if variant == OTHERS[0] else n
    counts = drawn(variant, STATISTICS, n, seed=3, **params)
    assert counts[probs == 0].sum() == 0
    assert chi_square_sigmas(counts, probs) < 4.0


def test_the_chi_square_test_sees_a_wrong_temperature() -> None:
    counts = drawn(OTHERS[0] if OTHERS else "numpy", STATISTICS, 100_000, temperature=1.05)
    w = reference.weights(STATISTICS[0], np.ones(120, bool), 1.0)
    assert chi_square_sigmas(counts, w / w.sum()) > 6.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_cold_approaches_greedy_and_heat_uniform(variant: str) -> None:
    n = 2048 if variant == "numpy" else 16384
    best = int(np.argmax(STATISTICS))
    shares = [drawn(variant, STATISTICS, n, temperature=t)[best] / n for t in (1e-3, 0.3, 1, 3)]
    assert shares[0] > 0.99
    assert shares == sorted(shares, reverse=True)
    hot = drawn(variant, STATISTICS, n, temperature=1e6)
    assert chi_square_sigmas(hot, np.full(120, 1 / 120)) < 4.0


@cache
def drawn_plainly(variant: str) -> Any:
    return drawn(variant, STATISTICS, 2048)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.5),
        ("top_p", 0.5),
        ("top_k", 20),
        ("min_p", 0.2),
        ("typical_p", 0.5),
        ("top_n_sigma", 1.0),
    ],
)
def test_each_parameter_changes_the_draws(variant: str, name: str, value: float) -> None:
    changed = drawn(variant, STATISTICS, 2048, **{name: value})
    assert np.abs(drawn_plainly(variant) - changed).sum() > 200


# ---- one draw, one definition --------------------------------------------------------------------


def neutral_rows(vocab_size: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Parameters that change nothing, each with the inputs that it needs."""
    everything = sample.pack_allowed(np.arange(vocab_size), vocab_size)
    return {
        "logprob": ({"want_logprob": 1}, {}),
        "top logprobs": ({"want_logprob": 1, "n_top": 5}, {}),
        "top_k": ({"top_k": vocab_size}, {}),
        "bias": ({"n_biases": 1}, {"biases": [(7, 0.0)]}),
        "penalty": ({"n_penalties": 1}, {"penalties": [(7, 1, 1)]}),
        "mask": ({"allowed_start": 0}, {"allowed": everything}),
    }


@cache
def numbers_of_seeds(n: int, position: int) -> Any:
    """float64 (n,): the random number of each seed, slow in Python."""
    return np.array([reference.uniform(seed, position) for seed in range(n)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [0.05, 3.0, 12.0])
@pytest.mark.parametrize("vocab_size", [5003, 20001])
def test_what_changes_nothing_changes_no_draw(variant: str, scale: float, vocab_size: int) -> None:
    """Rows whose random number falls next to a step of the cumulative distribution: there another
    order of additions, or weights about another maximum, draws another token."""
    z = (np.random.default_rng(2).standard_normal(vocab_size) * scale).astype(np.float32)
    w = reference.weights(z, np.ones(vocab_size, bool), 1.0)
    steps = np.cumsum(w) / w.sum()
    u = numbers_of_seeds(40000, position=3)
    after = np.searchsorted(steps, u)
    near = np.minimum(np.abs(steps[after] - u), np.abs(steps[np.maximum(after - 1, 0)] - u))
    rows = rows_of(200, position=3)
    rows["seed"] = np.argsort(near)[:200]
    logits = np.lib.stride_tricks.as_strided(z, (200, vocab_size), (0, 4))
    plain = run_sample(variant, logits, rows).out["token_id"].copy()
    for name, (params, inputs) in neutral_rows(vocab_size).items():
        changed = rows.copy()
        for field, value in params.items():
            changed[field] = value
        drawn = run_sample(variant, logits, changed, **inputs).out["token_id"]
        assert (drawn == plain).all(), name
