"""residual in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("residual").gpu_variant("triton")
def residual(_format: str) -> Launch:
    """A block's output, normed or scaled, added to x."""
    from pyroclast_kernels.residual.triton_kernels import launch_residual

    return launch_residual
