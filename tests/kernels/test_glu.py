"""glu: the functions of the gate, against their definitions and from end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.cases import steps_of
from pyroclast_kernels.activation.reference import gated
from pyroclast_kernels.cases import EPS
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.selection import Selection, all_variants

VARIANTS = [name for name, v in all_variants("glu").items() if v.launch is None]
# As the papers write them.
DEFINITIONS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    ),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
}


def run(variant: str, gates: Any, up: float | None, activation: str) -> Any:
    """f(gate) * up of every gate, or f(gate), by a forced variant."""
    if reason := all_variants("glu")[variant].unavailable:
        pytest.skip(reason)
    gates = np.asarray(gates, np.float32)
    out = np.zeros((1, len(gates)), np.float32)
    recorder = Recorder(Selection(f"glu={variant}"))
    recorder.call(
        "glu",
        n_tokens=np.array([1]),
        gate_up=np.concatenate([gates, *([] if up is None else [np.full_like(gates, up)])])[None],
        out=out,
        out_q8=None,
        d_ff=len(gates),
        activation=ACTIVATIONS.index(activation),
        gated=int(up is not None),
    )
    Program(recorder.calls).run()
    return out[0]


def test_every_activation_has_a_definition_here() -> None:
    assert tuple(DEFINITIONS) == ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_reference_is_the_definition(activation: str) -> None:
    gates = np.linspace(-6, 6, 97).astype(np.float32)
    wanted = [DEFINITIONS[activation](float(x)) for x in gates]
    got = gated(gates, np.ones_like(gates), ACTIVATIONS.index(activation))
    np.testing.assert_allclose(got, wanted, rtol=4 * EPS, atol=1e-14)


def test_the_activations_differ() -> None:
    values = {name: float(gated(np.full(1, 2, np.float32), np.ones(1), i)[0]) for i, name in
              enumerate(ACTIVATIONS)}  # fmt: skip
    assert values == pytest.approx(
        {"silu": 1.7615942, "gelu_tanh": 1.9545977, "gelu": 1.9544997, "relu": 2.0, "relu2": 4.0},
        rel=1e-6,
    )


@pytest.mark.native
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gates_from_one_end_to_the_other(variant: str, activation: str) -> None:
    """The bound of the case list, on many gates; and the sign of zero."""
    gates = np.concatenate([np.linspace(-95, 95, 20001), np.linspace(-14, 1, 20001)])
    gates = gates.astype(np.float32)
    index = ACTIVATIONS.index(activation)
    with np.errstate(over="ignore"):
        wanted = gated(gates.astype(np.float64), np.float64(-0.5), index)
    got = run(variant, gates, -0.5, activation)
    error = np.abs(got - wanted)
    assert (error <= steps_of(gates, index) * EPS * np.abs(wanted) + 1e-36).all()
    minus = activation != "relu2"  # a square has none
    assert np.signbit(run(variant, [-0.0, 0.0], 1.0, activation)).tolist() == [minus, False]


@pytest.mark.native
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_gate_up_is_one(variant: str, activation: str) -> None:
    gates = np.linspace(-14, 14, 1001)
    alone = run(variant, gates, None, activation)
    assert alone.tobytes() == run(variant, gates, 1.0, activation).tobytes()
    assert alone.tobytes() != run(variant, gates, 2.0, activation).tobytes()
