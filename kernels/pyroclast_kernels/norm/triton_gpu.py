"""norm in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("norm").gpu_variant("triton")
def norm(_format: str) -> Launch:
    """RMS or layer norm, quantized as well where that is asked for."""
    from pyroclast_kernels.norm.triton_kernels import launch_norm

    return launch_norm
