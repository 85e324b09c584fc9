"""route and group in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("route").gpu_variant("triton")
def route(_format: str) -> Launch:
    """The experts of each token and their gates."""
    from pyroclast_kernels.route.triton_kernels import launch_route

    return launch_route


@get_op("group").gpu_variant("triton")
def group(_format: str) -> Launch:
    """The pairs of a step by their expert."""
    from pyroclast_kernels.route.triton_kernels import launch_group

    return launch_group
