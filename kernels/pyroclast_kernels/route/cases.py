"""Cases of `route` and `group`: ties, extremes, all experts, one, and those of real models."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.route import SCORINGS

_Shape = tuple[int, int, int]  # tokens, experts, active ones


def _logits(shape: _Shape, kind: str) -> Array:
    """kind: plain, ties (few different values, zeros of both signs among them), far (exponentials
    overflow or are 0) or bad (one NaN, infinities, nothing but -inf)."""
    n_tokens, n_experts, _ = shape
    rng = np.random.default_rng([*shape, len(kind)])
    logits = (3 * rng.standard_normal((n_tokens + 1, n_experts))).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits / 3)
        logits[0] = np.where(np.arange(n_experts) % 2, 0.0, -0.0)
    if kind == "far":
        logits *= 40
        logits[0] = 1e38 * (-1.0) ** np.arange(n_experts)
    if kind == "bad":
        logits[0, 2], logits[1, 1], logits[2, :2] = np.nan, np.inf, -np.inf
        logits[3], logits[4, 1:], logits[5, ::2] = -np.inf, np.inf, np.nan
    return logits


def _route(
    shape: _Shape,
    kind: str,
    scoring: str,
    biased: bool,
    renormalize: bool,
    scale: float,
    scales_gates: bool,
) -> Arguments:
    n_tokens, n_experts, n_active = shape
    rng = np.random.default_rng([*shape, 1])
    return {
        "n_tokens": np.array([n_tokens]),
        "logits": _logits(shape, kind),
        "bias": rng.standard_normal(n_experts).astype(np.float32) if biased else None,
        "gate_scales": rng.standard_normal(n_experts).astype(np.float32) if scales_gates else None,
        "experts": np.full((n_tokens + 1, n_active), -1, np.int32),
        "gates": rng.standard_normal((n_tokens + 1, n_active)).astype(np.float32),
        "n_experts": n_experts,
        "n_active": n_active,
        "scoring": SCORINGS.index(scoring),
        "renormalize": int(renormalize),
        "scale": scale,
    }


def _route_bound(arguments: Arguments, expected: Array) -> Array | float:
    """Experts are exact.  A gate is an exponential of 2 ulp, whose exponent is rounded, over a sum
    of such; below 1e-36 a share may be taken for 0."""
    if expected.dtype.kind == "i":
        return 0.0
    spread = np.nan_to_num(np.abs(arguments["logits"]), posinf=0.0, neginf=0.0)
    exponent = np.minimum(spread.max(axis=1, keepdims=True), 100.0)
    steps = 16 + np.sqrt(arguments["n_experts"]) + exponent
    scales = arguments["gate_scales"]
    most = abs(arguments["scale"]) * (1 if scales is None else np.abs(scales).max())
    bound: Array = steps * EPS * np.abs(expected) + 1e-36 * (1 + most)
    return bound


def _route_case(
    shape: _Shape,
    kind: str = "plain",
    scoring: str = "softmax",
    biased: bool = False,
    renormalize: bool = False,
    scale: float = 1.0,
    scales_gates: bool = False,
) -> Case:
    n_tokens, n_experts, n_active = shape
    suffix = "-bias" * biased + "-renormalize" * renormalize + f"-scale{scale:g}" * (scale != 1)
    suffix += "-gate-scales" * scales_gates
    return Case(
        op="route",
        format="f32",
        name="x".join(map(str, shape)) + f"-{kind}-{scoring}" + suffix,
        make=lambda: _route(shape, kind, scoring, biased, renormalize, scale, scales_gates),
        outputs=("experts", "gates"),
        bound=_route_bound,
        reason="exponents rounded, exponentials of 2 ulp, a float32 sum and a quotient; "
        "the order of logits is exact",
        flops=n_tokens * n_experts * (10 + n_active),
        bytes=4 * n_tokens * (n_experts + 2 * n_active),
    )


def _group(shape: _Shape, kind: str) -> Arguments:
    """kind: plain; one (all tokens chose the same); apart (nobody chose the first and the last)."""
    n_tokens, n_experts, n_active = shape
    rng = np.random.default_rng([*shape, len(kind)])
    chosen = rng.random((n_tokens + 1, n_experts)).argsort(axis=1)[:, :n_active]
    if kind == "one":
        chosen[:] = chosen[0]
    if kind == "apart":
        chosen = 1 + chosen % (n_experts - 2)
    return {
        "n_tokens": np.array([n_tokens]),
        "experts": chosen.astype(np.int32),
        "order": np.full((n_tokens + 1) * n_active, -1, np.int32),
        "starts": np.full(n_experts + 1, -1, np.int32),
        "n_experts": n_experts,
        "n_active": n_active,
    }


def _group_case(shape: _Shape, kind: str = "plain") -> Case:
    n_tokens, n_experts, n_active = shape
    return Case(
        op="group",
        format="f32",
        name="x".join(map(str, shape)) + f"-{kind}",
        make=lambda: _group(shape, kind),
        outputs=("order", "starts"),
        bound=lambda arguments, expected: 0.0,
        reason="whole numbers",
        flops=2 * n_tokens * n_active,
        bytes=4 * (2 * n_tokens * n_active + n_experts),
    )


# Qwen3-30B-A3B, gpt-oss-20b, and a router of LFM2's kind with a bias.
_MODELS = {"qwen3": (128, 8), "gpt-oss": (32, 4)}

CASES = [
    *(
        _route_case(shape, scoring=scoring, renormalize=renormalize)
        for scoring in SCORINGS
        for renormalize in (False, True)
        for shape in [(1, 1, 1), (3, 5, 2), (2, 17, 17), (9, 128, 8), (4, 32, 4)]
    ),
    *(
        _route_case((6, n_experts, 3), kind, scoring, biased, renormalize=True, scale=2.5)
        for n_experts in (5, 40)
        for kind in ("ties", "far", "bad")
        for scoring in SCORINGS
        for biased in (False, True)
        if not (kind == "far" and biased)  # scores of 0 and 1, which ties in the last bit decide
    ),
    _route_case((7, 32, 4), "plain", "sigmoid", True, True, 1.5),
    _route_case((7, 300, 6), "plain", "softmax", True, False, 16.0),
    _route_case((9, 128, 8), renormalize=True, scales_gates=True),
    _route_case((6, 40, 3), "bad", "sigmoid", True, True, 2.5, scales_gates=True),
    *(
        _group_case(shape, kind)
        for shape, kind in [
            ((1, 1, 1), "plain"), ((1, 128, 8), "plain"), ((5, 4, 4), "plain"), ((7, 9, 2), "one"),
            ((33, 12, 3), "apart"), ((300, 128, 8), "plain"),
        ]
    ),
]  # fmt: skip

BENCH_CASES = [
    case
    for n_experts, n_active in _MODELS.values()
    for n in (1, 512)
    for case in (
        _route_case((n, n_experts, n_active), renormalize=True),
        _group_case((n, n_experts, n_active)),
    )
]
