"""layer_input in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("layer_input").gpu_variant("triton")
def layer_input(_format: str) -> Launch:
    """A norm, a sum and a gate."""
    from pyroclast_kernels.layer_input.triton_kernels import launch_layer_input

    return launch_layer_input
