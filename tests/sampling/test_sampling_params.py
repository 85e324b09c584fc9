"""`SamplingParams`: what is allowed, and errors that say so."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from pyroclast.errors import PyroclastError, SamplingError
from pyroclast.sampling.param_checks import MAX_LOGIT_BIASES, MAX_LOGPROBS
from pyroclast.sampling.params import SamplingParams

NAMES = [field.name for field in dataclasses.fields(SamplingParams)]


def test_defaults_leave_the_distribution_alone_and_do_not_cut_answers() -> None:
    params = SamplingParams()
    assert params.max_tokens is None
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1.0, 1.0, 0, 0.0)
    assert not params.greedy
    assert not params.has_penalties


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("temperature", 0, 0.0),
        ("temperature", np.float32(0.5), 0.5),
        ("top_k", -1, 0),
        ("top_k", np.int64(40), 40),
        ("top_p", 0.0, 0.0),
        ("top_p", 1, 1.0),
        ("min_p", 1.0, 1.0),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("seed", 0, 0),
        ("stop", "END", ("END",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop", None, ()),
        ("stop_token_ids", [2, 0], (2, 0)),
        ("logit_bias", {3: 1, "4": -math.inf}, {3: 1.0, 4: -math.inf}),
        ("logit_bias", None, {}),
        ("allowed_token_ids", range(2), (0, 1)),
        ("max_tokens", 1, 1),
        ("logprobs", 0, 0),
        ("logprobs", MAX_LOGPROBS, MAX_LOGPROBS),
        ("ignore_eos", True, True),
        ("frequency_penalty", -2, -2.0),
    ],
)
def test_accepted(name: str, value: Any, kept: Any) -> None:
    got = getattr(SamplingParams(**{name: value}), name)
    assert got == kept
    assert type(got) is type(kept)


NUMBERS = ["temperature", "top_p", "min_p", "typical_p", "top_n_sigma"]
NUMBERS += ["repetition_penalty", "presence_penalty", "frequency_penalty"]
WHOLE = ["n", "top_k", "min_tokens", "seed", "max_tokens", "logprobs", "prompt_logprobs"]
REFUSED: list[tuple[str, Any]] = [
    *((name, bad) for name in NUMBERS for bad in (math.nan, math.inf, -math.inf, True, "1", None)),
    ("logit_bias", {1: 10**400}),
    *((name, [1.0]) for name in NUMBERS),
    *((name, bad) for name in WHOLE for bad in (1.0, True, "1", math.nan, [1], 2**70, -2)),
    *((name, bad) for name in ("top_p", "min_p", "typical_p") for bad in (-0.1, 1.1)),
    ("temperature", -0.1),
    ("temperature", 1j),
    ("top_n_sigma", -1.0),
    ("repetition_penalty", 0.0),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("n", 0),
    ("n", None),
    ("max_tokens", 0),
    ("seed", -1),
    ("logprobs", MAX_LOGPROBS + 1),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", [1]),
    ("stop", 5),
    ("stop_token_ids", 5),
    ("stop_token_ids", "12"),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [1.5]),
    ("ignore_eos", 1),
    ("ignore_eos", "no"),
    ("logit_bias", [1]),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {1: math.inf}),
    ("logit_bias", {1: 1e39}),
    ("logit_bias", {1: "x"}),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {1.5: 1.0}),
    ("logit_bias", {"x": 1.0}),
    ("logit_bias", {"1" * 5000: 1.0}),
    ("logit_bias", dict.fromkeys(range(MAX_LOGIT_BIASES + 1), 1.0)),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [True]),
    ("logits_processors", 5),
    ("logits_processors", [5]),
]


@pytest.mark.parametrize(("name", "bad"), REFUSED)
def test_refused_by_name(name: str, bad: Any) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**{name: bad})
    assert str(caught.value).startswith(f"{name} must ")
    assert "got" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_parameter_is_checked() -> None:
    class Odd:
        """Nothing that any parameter could be."""

    for name in NAMES:
        with pytest.raises(SamplingError, match=f"^{name} must "):
            SamplingParams(**{name: Odd()})


def test_unknown_names_are_errors_with_a_hint() -> None:
    with pytest.raises(SamplingError, match=r"'temprature'; did you mean 'temperature'\?.*top_p"):
        SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    with pytest.raises(SamplingError, match="'nonsense'; known: n, temperature"):
        SamplingParams.from_dict({"nonsense": 1})
    with pytest.raises(SamplingError, match="by name"):
        SamplingParams(0.7)  # type: ignore[misc]


def test_sampling_errors_are_ours_and_value_errors() -> None:
    assert issubclass(SamplingError, PyroclastError)
    assert issubclass(SamplingError, ValueError)


def test_min_tokens_must_fit_max_tokens() -> None:
    with pytest.raises(SamplingError, match=r"min_tokens must be at most max_tokens \(3\), got 4"):
        SamplingParams(max_tokens=3, min_tokens=4)


def test_replace_checks_again_and_leaves_the_original() -> None:
    params = SamplingParams(temperature=0.5)
    assert params.replace(top_k=3) == SamplingParams(temperature=0.5, top_k=3)
    assert params.top_k == 0
    with pytest.raises(SamplingError):
        params.replace(top_p=2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 1.0  # type: ignore[misc]


def test_copies() -> None:
    params = SamplingParams(temperature=0.5, stop=("x",), logit_bias={1: 2.0})
    assert pickle.loads(pickle.dumps(params)) == params
    assert copy.deepcopy(params) == params
    assert SamplingParams.from_dict(params.as_dict()) == params
    assert list(params.as_dict()) == NAMES


def test_later_changes_of_the_caller_do_not_reach_in() -> None:
    bias, stop = {1: 1.0}, ["x"]
    params = SamplingParams(logit_bias=bias, stop=stop)  # type: ignore[arg-type]
    bias[2], stop[0] = 5.0, "y"
    assert (params.logit_bias, params.stop) == ({1: 1.0}, ("x",))


def test_seeds() -> None:
    assert SamplingParams(seed=5).fixed_seed() == 5
    seeds = {SamplingParams().fixed_seed() for _ in range(8)}
    assert len(seeds) == 8
    assert all(SamplingParams(seed=seed).seed == seed for seed in seeds)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_token_ids", [10]), ("logit_bias", {10: 1.0}), ("allowed_token_ids", [3, 10])],
)
def test_token_ids_outside_the_vocabulary(name: str, value: Any) -> None:
    params = SamplingParams(**{name: value})
    params.check_vocabulary(11)
    with pytest.raises(SamplingError, match=f"{name} names token 10, .* ids 0 to 9"):
        params.check_vocabulary(10)


def test_greedy_below_the_least_temperature() -> None:
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(temperature=9e-6).greedy
    assert not SamplingParams(temperature=1e-5).greedy


def test_each_penalty_counts_as_one() -> None:
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert SamplingParams(**{name: 1.5}).has_penalties


@pytest.mark.parametrize("n_digits", [400, 5000])  # no float holds it; Python does not write it
@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "seed"])
def test_a_number_of_many_digits_is_refused_by_name(name: str, n_digits: int) -> None:
    params: dict[str, Any] = {name: 10**n_digits}
    with pytest.raises(SamplingError, match=name):
        SamplingParams(**params)


@pytest.mark.parametrize("name", ["self", "cls", "changes", "params", "args"])
def test_names_of_our_own_arguments_are_unknown_parameters(name: str) -> None:
    said = f"unknown sampling parameter '{name}'"
    with pytest.raises(SamplingError, match=said):
        SamplingParams.from_dict({name: 1})
    with pytest.raises(SamplingError, match=said):
        SamplingParams().replace(**{name: 1})
