"""delta_rule in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("delta_rule").gpu_variant("triton")
def delta_rule(_format: str) -> Launch:
    """The recurrence of each head, token by token."""
    from pyroclast_kernels.delta_rule.triton_kernels import launch_delta_rule

    return launch_delta_rule
