"""Every variant of `sample` against the reference, and itself in other batches and parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import SampleCall, run_sample
from pyroclast_kernels import sample
from pyroclast_kernels.cases import expected, op_cases
from pyroclast_kernels.sample import cases, reference
from pyroclast_kernels.selection import all_variants
from sample_rows import OTHERS, drawn, n_kept, rows_of

TOLERANCE = cases.CDF_TOLERANCE


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
