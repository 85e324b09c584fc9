"""conv1d in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("conv1d").gpu_variant("triton")
def conv1d(_format: str) -> Launch:
    """The convolution of each sequence, then the states that are kept."""
    from pyroclast_kernels.conv1d.triton_kernels import launch_conv1d

    return launch_conv1d
