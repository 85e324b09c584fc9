"""`sampling.trace`: the stages as plain data, agreeing with the op."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from pyroclast.errors import SamplingError
from pyroclast.lab.speed.sample_call import run_sample
from pyroclast.sampling import SamplingParams, trace
from pyroclast_kernels import sample
from pyroclast_kernels.sample import cases

LOGITS = cases.RowCase("normal", 300).logits()


def names(found: Any) -> list[str]:
    return [stage.name for stage in found.stages]


def test_stages_that_are_off_do_not_appear() -> None:
    assert names(trace(LOGITS)) == ["model", "temperature"]
    assert names(trace(LOGITS, SamplingParams(temperature=0))) == ["model", "greedy"]


def test_all_stages_in_the_order_of_the_definition() -> None:
    params = SamplingParams(
        temperature=0.9,
        top_p=0.9,
        top_k=100,
        min_p=0.001,
        typical_p=0.95,
        top_n_sigma=3.0,
        presence_penalty=0.5,
        logit_bias={5: 1.0},
        allowed_token_ids=tuple(range(250)),
    )
    found = trace(LOGITS, params, output_ids=[5])
    assert names(found) == [
        "model",
        "logit_bias",
        "penalties",
        "allowed",
        "temperature",
        "top_n_sigma",
        "min_p",
        "top_k",
        "typical_p",
        "top_p",
    ]
    kept = [stage.n_kept for stage in found.stages]
    assert kept == sorted(kept, reverse=True)
    removed = [stage.n_removed for stage in found.stages]
    assert [a - b for a, b in zip([300, *kept], kept, strict=False)] == removed
    assert removed[3] == 50


@pytest.mark.parametrize("params", cases.PARAMS, ids=str)
def test_chooses_what_the_op_chooses(params: dict[str, Any]) -> None:
    rows = sample.new_rows(1)
    for name, value in {**params, "seed": 9, "position": 4, "completion": 1}.items():
        rows[name] = value
    out = run_sample("numpy", LOGITS[None], rows).out[0]
    found = trace(LOGITS, SamplingParams(**params, seed=9), position=4, completion=1)
    assert found.token_id == out["token_id"]
    assert found.stages[-1].n_kept == out["n_kept"]
    if found.u is not None:
        low, high = found.cdf
        assert low <= found.u < high


def test_probabilities_and_what_removed_a_token() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    found = trace(logits, SamplingParams(top_k=3, top_p=0.7, seed=1))
    assert [token.token_id for token in found.tokens] == [0, 1, 2, 3]
    assert [token.removed_by for token in found.tokens] == [None, None, "top_p", "top_k"]
    first = found.tokens[0]
    assert list(first.probs) == ["model", "temperature", "top_k", "top_p"]
    assert np.allclose(list(first.probs.values()), [0.4, 0.4, 4 / 9, 4 / 7])
    assert found.stages[0].entropy == pytest.approx(-sum(p * math.log(p) for p in np.exp(logits)))
    assert all(s.perplexity == pytest.approx(math.exp(s.entropy)) for s in found.stages)
    for stage in found.stages:
        total = sum(token.probs[stage.name] for token in found.tokens)
        assert total == pytest.approx(1.0)


def test_temperature_shows_in_entropy() -> None:
    entropies = [trace(LOGITS, SamplingParams(temperature=t)).stages[-1].entropy for t in (0.5, 1)]
    assert entropies[0] < entropies[1] == pytest.approx(trace(LOGITS).stages[0].entropy)


def test_the_chosen_token_is_always_listed() -> None:
    found = trace(np.zeros(1000), SamplingParams(seed=3), n_tokens=5)
    assert len(found.tokens) == 6
    assert found.tokens[-1].token_id == found.token_id
    assert found.seed == 3


def test_is_plain_data() -> None:
    found = trace(LOGITS, SamplingParams(top_k=3, seed=1))
    assert json.loads(json.dumps(found.as_dict()))["token_id"] == found.token_id


@pytest.mark.parametrize(
    ("logits", "params", "message"),
    [
        ([[1.0]], {}, "one position"),
        ([], {}, "one position"),
        ([1.0, math.nan], {}, "NaN"),
        ([1.0, math.inf], {}, "NaN and"),
        ([1.0, -math.inf], {"allowed_token_ids": [1]}, "no token is left"),
        ([1.0, 2.0], {"logit_bias": {2: 1.0}}, "only ids 0 to 1"),
    ],
)
def test_bad_input(logits: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        trace(logits, SamplingParams(**params))
