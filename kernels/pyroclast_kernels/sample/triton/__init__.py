"""sample in Triton: see kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("sample").gpu_variant("triton")
def sample(_format: str) -> Launch:
    """All stages, in six kernels of which a row needs one to three."""
    from pyroclast_kernels.sample.triton.kernels import launch_sample

    return launch_sample
