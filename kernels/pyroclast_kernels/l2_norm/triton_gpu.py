"""l2_norm in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("l2_norm").gpu_variant("triton")
def l2_norm(_format: str) -> Launch:
    """Queries and keys of length 1, in place."""
    from pyroclast_kernels.l2_norm.triton_kernels import launch_l2_norm

    return launch_l2_norm
