"""`sample` in Triton beyond the case list: exact choices, statistics, and independence of rows.

The interpreter takes milliseconds a program, so draws are rows of one call, and what one row can
show is one row of a mixed batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels import sample
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.sample import cases, reference
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import limits_of, on_host

TOLERANCE = cases.CDF_TOLERANCE
PARAMS = cases.PARAMS


def launch() -> Any:
    get_launch = all_variants("sample")["triton"].launch
    assert get_launch is not None
    return get_launch("f32")


def run(logits: Any, rows: Any, more_rows: int = 0, **inputs: Any) -> dict[str, Any]:
    """The arguments after one call; more_rows: by how much Limits exceed the rows."""
    arguments = cases.arguments_of(logits, rows, **inputs)
    limits = limits_of(arguments)
    wide = replace(limits, n_tokens=limits.n_tokens + more_rows)
    on_host(lambda _, **tensors: launch()(wide, **tensors))(**arguments)
    assert not triton_device.counters().any()
    return arguments


def rows_of(n_rows: int, *params: dict[str, Any]) -> Any:
    """Rows that take the sets of parameters in turn, each at a position of its own."""
    rows = sample.new_rows(n_rows)
    rows["position"] = np.arange(n_rows)
    for r in range(n_rows):
        for name, value in params[r % len(params)].items() if params else ():
            rows[name][r] = value
    return rows


def assert_like_reference(out: Any, z: Any, row: Any) -> None:
    """The token and n_kept are the reference's, or differ as far as rounding allows."""
    assert out["status"] == sample.OK
    if (out["token_id"], out["n_kept"]) == reference.choose(z, row):
        return
    least, most = (reference.choose(z, cases.relaxed(row, c))[1] for c in (-TOLERANCE, TOLERANCE))
    assert least <= out["n_kept"] <= most
    final = reference.stages(z, cases.relaxed(row, TOLERANCE))[-1]
    w = reference.weights(z, final.kept, float(row["temperature"]))
    u = reference.uniform(int(row["seed"]), int(row["position"]), int(row["completion"]))
    low, high = reference.cdf_interval(w, int(out["token_id"]))
    assert low - TOLERANCE <= u <= high + TOLERANCE


@pytest.mark.parametrize(
    ("vocab_size", "params"),
    [(1, PARAMS[1::5]), (7, PARAMS), (33, PARAMS[::2]), (1000, PARAMS[1::2]), (5000, PARAMS)],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_sets_of_parameters_choose_as_the_reference_does(
    vocab_size: int, params: tuple[dict[str, Any], ...]
) -> None:
    kinds = ("model", "normal", "steps", "narrow", "holes")
    rows = rows_of(len(params), *params)
    rows["seed"], rows["completion"] = 2**40 + vocab_size, np.arange(len(rows)) % 2
    logits = np.stack(
        [cases.RowCase(kinds[r % len(kinds)], vocab_size).logits(r) for r in range(len(rows))]
    )
    out = run(logits, rows)["out"]
    for r in range(len(rows)):
        assert_like_reference(out[r], logits[r], rows[r])


@pytest.mark.parametrize(
    ("name", "params"),
    [  # how each gets to its token: from the survey, a short list, a long one, the row, a threshold
        ("normal", {}),
        ("model", {"top_k": 50, "top_p": 0.95, "temperature": 0.8}),
        ("normal", {"top_k": 3000, "top_p": 0.5}),
        ("normal", {"top_k": 30000, "top_p": 0.9}),
        ("wide", {"min_p": 0.01}),
    ],
)
def test_a_whole_vocabulary(name: str, params: dict[str, Any]) -> None:
    rows = rows_of(1, params | {"seed": 5})
    logits = cases.RowCase(name, cases.VOCAB_SIZE).logits(1)[None]
    assert_like_reference(run(logits, rows)["out"][0], logits[0], rows[0])


# ---- statistics ---------------------------------------------------------------------------------


def chi_square_sigmas(counts: Any, probs: Any) -> float:
    """How many standard deviations of its distribution the statistic lies above its mean
    (Wilson and Hilferty's transform); tokens with fewer than 5 expected are taken together."""
    expected = probs * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    k = len(expected) - 1
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return float(((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)))


COMBINATIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.7},
    {"temperature": 2.0, "top_k": 7, "top_p": 0.95},
    {"min_p": 0.4},
)


def test_draws_follow_the_distribution() -> None:
    z = cases.RowCase("normal", 16).logits()
    n_sets = len(COMBINATIONS)
    n = 80 * n_sets
    logits = np.lib.stride_tricks.as_strided(z, (n, 16), (0, 4))
    tokens = run(logits, rows_of(n, *COMBINATIONS))["out"]["token_id"]
    for i, params in enumerate(COMBINATIONS):
        row = rows_of(1, params)[0]
        kept = reference.stages(z, row)[-1].kept
        w = reference.weights(z, kept, float(row["temperature"]))
        counts, others = (
            np.bincount(tokens[k % n_sets :: n_sets], minlength=16) for k in (i, i + 1)
        )
        assert counts[~kept].sum() == 0
        assert chi_square_sigmas(counts, w / w.sum()) < 4.0
        # ... which sees that those of other parameters follow another one.
        assert others[~kept].sum() > 0 or chi_square_sigmas(others, w / w.sum()) > 4.0


# ---- every parameter ----------------------------------------------------------------------------

CHANGES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.3},
    {"temperature": 0.0},
    {"top_p": 0.3},
    {"min_p": 0.3},
    {"typical_p": 0.2},
    {"top_n_sigma": 0.5},
    {"top_k": 3},
    {"seed": 1},
    {"seed": 2**63},
    {"position": 2**33},
    {"completion": 1},
    {"n_penalties": 8, "repetition_penalty": 3.0},
    {"n_penalties": 8, "frequency_penalty": 3.0},
    {"n_penalties": 8, "presence_penalty": 4.0},
    {"n_penalties": 8, "penalty_start": 8, "presence_penalty": 4.0},
    {"n_biases": 1},
    {"n_biases": 1, "bias_start": 1},
    {"allowed_start": 0},
    {"allowed_start": 2},
    {"target": 5},
)


def test_every_parameter_changes_some_draw() -> None:
    """Each changed row against the plain one and the others, at several random numbers."""
    z = cases.RowCase("normal", 60).logits()
    best = reference.falling(z)
    n_draws = 6
    rows = np.repeat(rows_of(1, {}), n_draws * (len(CHANGES) + 1))
    rows["position"] = np.arange(len(rows)) % n_draws
    for i, changes in enumerate(CHANGES):
        mine = slice((i + 1) * n_draws, (i + 2) * n_draws)
        for name, value in changes.items():
            rows[name][mine] = value + rows[name][mine] if name == "position" else value
    masks = [sample.pack_allowed(best[20:40], 60), sample.pack_allowed(best[40:], 60)]
    inputs: dict[str, Any] = {
        "penalties": [(t, 1, i % 3) for i, t in enumerate(best[:16])],
        "biases": [(best[-1], 20.0), (best[-2], 20.0)],
        "allowed": np.concatenate(masks),
    }
    logits = np.lib.stride_tricks.as_strided(z, (len(rows), 60), (0, 4))
    got, want = run(logits, rows, **inputs), cases.arguments_of(logits, rows, **inputs)
    reference.sample(**want)
    np.testing.assert_array_equal(got["out"]["token_id"], want["out"]["token_id"])
    drawn = {tuple(t) for t in got["out"]["token_id"].reshape(-1, n_draws)}
    assert len(drawn) == len(CHANGES) + 1


def test_entries_of_one_token_follow_one_another() -> None:
    """In the list's order, whether within one block of entries or not."""
    logits = np.zeros((2, 5000), np.float32)
    rows = rows_of(2, {"temperature": 0.0, "n_biases": 1100, "n_penalties": 1100})
    rows["repetition_penalty"], rows["frequency_penalty"] = 2.0, 0.125
    rows["bias_start"][1], rows["want_logprob"] = 1100, 1
    once = [(t, 0.001 * t) for t in range(100, 1194)]
    far = [(4999, 3.0e38), (4999, 3.0e38), (4999, -3.0e38), (4999, 3.0e38)]  # clipped on the way
    biases = [*far, (4999, -3.0e38), *once, (4999, -3.0e38)]
    biases += [*far[:2], *once, *far[2:], far[2], (4998, 1.0)]
    penalties = [(4998, 1, 1)] * 2 + [(t, 1, 1) for t in range(200, 1296)] + [(1193, 1, 2)] * 2
    inputs: dict[str, Any] = {"biases": biases, "penalties": penalties}
    got, want = run(logits, rows, **inputs), cases.arguments_of(logits, rows, **inputs)
    reference.sample(**want)
    np.testing.assert_array_equal(got["out"], want["out"])
    assert len(set(got["out"]["token_id"])) == 2


# ---- what is reported ---------------------------------------------------------------------------


def test_reports() -> None:
    """More tokens asked for than there are, ties, targets, and rows that report nothing."""
    logits = np.stack([cases.RowCase("steps", 5000).logits(r) for r in range(6)])
    logits[1, 3:] = -np.inf
    logits[3, 77] = np.inf
    logits[4, ::2] = -0.0
    logits[4, 1::2] = 0.0
    rows = rows_of(6, {"want_logprob": 1, "n_top": 8}, {"want_logprob": 1, "n_top": 5})
    rows["want_logprob"][2], rows["n_top"][5] = 0, 0
    rows["target"][4:] = 3, 4096
    got, want = run(logits, rows), cases.arguments_of(logits, rows)
    reference.sample(**want)
    assert (got["out"]["status"] == [0, 0, 0, sample.NOT_FINITE, 0, 0]).all()
    for name in ("token_id", "status", "n_kept", "rank", "is_greedy"):
        np.testing.assert_array_equal(got["out"][name], want["out"][name])
    logprobs = got["out"]["logprob"]
    np.testing.assert_allclose(logprobs, want["out"]["logprob"], rtol=2e-7, atol=4e-6)
    np.testing.assert_array_equal(got["top_ids"], want["top_ids"])
    np.testing.assert_allclose(got["top_logprobs"], want["top_logprobs"], rtol=2e-7, atol=4e-6)


# ---- independence -------------------------------------------------------------------------------


def mixed() -> dict[str, Any]:
    case = next(case for case in cases.CASES if case.name == "mixed-300")
    return case.make()


def inputs_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in ("penalties", "biases", "allowed")}


def test_rows_alone_are_the_rows_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = mixed()
    logits, rows = arguments["logits"], arguments["rows"]
    together = run(logits, rows, **inputs_of(arguments))
    for r in (1, 15, 20, len(rows) - 5, len(rows) - 3):
        alone = run(logits[r : r + 1], rows[r : r + 1], more_rows=2, **inputs_of(arguments))
        assert alone["out"].tobytes() == together["out"][r : r + 1].tobytes()
        assert np.array_equal(alone["top_logprobs"], together["top_logprobs"][r : r + 1])
    # ... and the rows of groups: so little scratch memory that it takes several.
    scratch = triton_device.scratch()[: 1 << 20]
    monkeypatch.setattr(triton_device, "scratch", lambda: scratch)
    wide = np.full((len(rows), logits.shape[1] + 37), np.nan, np.float32)
    wide[:, 5:-32] = logits
    in_groups = run(wide[:, 5:-32], rows, **inputs_of(arguments))
    assert in_groups["out"].tobytes() == together["out"].tobytes()
    assert in_groups["top_ids"].tobytes() == together["top_ids"].tobytes()


def test_no_rows() -> None:
    arguments = cases.arguments_of(np.zeros((2, 9), np.float32), rows_of(2))
    arguments["n_rows"][0], arguments["out"]["token_id"] = 0, 55
    limits = replace(limits_of(arguments), n_tokens=2)
    on_host(lambda _, **tensors: launch()(limits, **tensors))(**arguments)
    assert arguments["out"]["token_id"].tolist() == [55, 55]


def test_too_large_a_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = triton_device.scratch()[: 1 << 12]
    monkeypatch.setattr(triton_device, "scratch", lambda: scratch)
    with pytest.raises(KernelError, match="bytes of scratch memory for a row of 900 tokens"):
        run(np.zeros((1, 900), np.float32), rows_of(1))
