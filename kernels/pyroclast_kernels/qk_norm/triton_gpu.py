"""qk_norm in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("qk_norm").gpu_variant("triton")
def qk_norm(_format: str) -> Launch:
    """RMS norm of queries and keys, in place."""
    from pyroclast_kernels.qk_norm.triton_kernels import launch_qk_norm

    return launch_qk_norm
