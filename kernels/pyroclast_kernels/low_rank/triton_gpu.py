"""low_rank in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("low_rank").gpu_variant("triton")
def low_rank(_format: str) -> Launch:
    """The adapters of a step's tokens, added to a product."""
    from pyroclast_kernels.low_rank.triton_kernels import launch_low_rank

    return launch_low_rank
