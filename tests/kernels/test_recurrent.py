"""The ops of recurrent layers: their definitions are those of transformers, and a token's bits
depend on its sequence alone, however it is cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.cases import Case, expected, op_cases
from pyroclast_kernels.delta_rule.reference import matrices
from pyroclast_kernels.selection import all_variants
from recurrent_checks import CHECKS

# NumPy's sums have no fixed order; Triton's variants are in tests/gpu.
CHECKED = [
    pytest.param(check, op, name, id=f"{op}-{name}-{check.__name__}")
    for check, op in CHECKS
    for name, variant in all_variants(op).items()
    if name != "numpy" and variant.launch is None and not variant.unavailable
]


@pytest.mark.native
@pytest.mark.parametrize(("check", "op", "variant"), CHECKED)
def test_recurrent(check: Callable[[str, str], None], op: str, variant: str) -> None:
    check(op, variant)


def test_every_technology_of_the_cpu_is_tested() -> None:
    assert {"numba"} <= {param.values[2] for param in CHECKED}


def sequences_of(case: Case) -> list[tuple[slice, int, int, dict[str, Any], dict[str, Any]]]:
    """(tokens, slot in, slot out, arguments before the reference has run, and after)."""
    before, after = expected(case)
    starts = before["seq_starts"][: int(before["n_seqs"][0]) + 1].tolist()
    return [
        (slice(first, end), int(slot), int(before["slots_out"][end - 1]), before, after)
        for slot, (first, end) in zip(before["slots_in"], pairwise(starts), strict=False)
    ]


@pytest.mark.parametrize(
    "case", [case for case in op_cases("delta_rule") if "tiled" not in case.name], ids=str
)
def test_the_delta_rule_is_that_of_transformers(case: Case) -> None:
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    for tokens, slot, target, before, after in sequences_of(case):
        sizes = {name: before[name] for name in ("n_k_heads", "n_v_heads", "k_dim", "v_dim")}
        n_k_heads, n_v_heads, k_dim, v_dim = sizes.values()
        ends = [n_k_heads * k_dim, 2 * n_k_heads * k_dim]
        q, k, v = (
            torch.tensor(part).reshape(1, len(part), -1, size)
            for part, size in zip(
                np.split(before["qkv"][tokens], ends, axis=1), (k_dim, k_dim, v_dim), strict=True
            )
        )
        shifted = torch.tensor(before["alpha"][tokens, :n_v_heads] + before["dt_bias"])
        g = torch.tensor(before["a"]) * torch.nn.functional.softplus(shifted)
        beta = torch.tensor(before["beta"][tokens, :n_v_heads]).sigmoid()
        start = torch.tensor(matrices(before["state"][slot])[None, :, :, :v_dim])
        out, end = qwen.torch_recurrent_gated_delta_rule(
            q * k_dim**0.5,  # which it divides by
            k,
            v,
            g=g[None],
            beta=beta[None],
            initial_state=start if slot >= 0 else None,
            output_final_state=True,
        )
        np.testing.assert_allclose(
            after["out"][tokens], out.reshape(q.shape[1], -1), rtol=1e-5, atol=1e-5
        )
        got = matrices(after["state"][target])[:, :, :v_dim]
        np.testing.assert_allclose(got, end[0], rtol=1e-5, atol=1e-5)


def test_the_state_space_model_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    mamba = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    [case] = [case for case in op_cases("ssm") if case.name == "5+1+4+2x4h20-2g24"]
    for tokens, slot, target, before, after in sequences_of(case):
        n_heads, head_dim, n_groups = before["n_heads"], before["head_dim"], before["n_groups"]
        columns = n_heads * head_dim
        s = torch.tensor(matrices(before["state"][slot])[None, :, :, :head_dim] * (slot >= 0))
        s = s.transpose(2, 3).contiguous()
        for t in range(tokens.start, tokens.stop):
            x = torch.tensor(before["xbc"][t : t + 1, :columns]).reshape(1, n_heads, head_dim)
            b, c = torch.tensor(before["xbc"][t, columns:]).reshape(2, 1, n_groups, -1)
            y = mamba.mamba2_selective_state_update(
                s,
                x,
                torch.tensor(before["dt"][t : t + 1, :n_heads, None]),
                torch.tensor(before["a"][:, None, None]),
                b,
                c,
                torch.tensor(before["d"][:, None]),
                dt_bias=torch.tensor(before["dt_bias"][:, None]),
                dt_softplus=True,
            )
            np.testing.assert_allclose(after["out"][t], y.reshape(-1), rtol=1e-5, atol=2e-5)
        got = matrices(after["state"][target])[:, :, :head_dim]
        np.testing.assert_allclose(got, s[0].transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [c for c in op_cases("conv1d") if "silu" in c.name], ids=str)
def test_the_convolution_is_that_of_torch(case: Case) -> None:
    torch = pytest.importorskip("torch")
    for tokens, slot, _, before, after in sequences_of(case):
        n, bias = before["n_channels"], before["bias"]
        history = before["state"][slot] * (slot >= 0)
        u = torch.tensor(np.concatenate([history, before["x"][tokens, :n]]))
        weight = torch.tensor(before["weight"]).T[:, None]
        shift = None if bias is None else torch.tensor(bias)
        y = torch.nn.functional.conv1d(u.T[None], weight, shift, groups=n)
        want = torch.nn.functional.silu(y)[0].T
        np.testing.assert_allclose(after["out"][tokens], want, rtol=1e-5, atol=1e-5)
