"""sparse_gate in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("sparse_gate").gpu_variant("triton")
def sparse_gate(_format: str) -> Launch:
    """What of a gate lies far above its mean, in place."""
    from pyroclast_kernels.sparse_gate.triton_kernels import launch_sparse_gate

    return launch_sparse_gate
