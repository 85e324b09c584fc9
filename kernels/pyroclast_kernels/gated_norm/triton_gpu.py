"""gated_norm and sigmoid_gate in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("gated_norm").gpu_variant("triton")
def gated_norm(_format: str) -> Launch:
    """The norm of each group, with its gate."""
    from pyroclast_kernels.gated_norm.triton_kernels import launch_gated_norm

    return launch_gated_norm


@get_op("sigmoid_gate").gpu_variant("triton")
def sigmoid_gate(_format: str) -> Launch:
    """A gate, in place."""
    from pyroclast_kernels.gated_norm.triton_kernels import launch_sigmoid_gate

    return launch_sigmoid_gate
