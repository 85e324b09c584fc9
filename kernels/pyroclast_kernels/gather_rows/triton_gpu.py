"""gather_rows in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("gather_rows").gpu_variant("triton")
def gather_rows(_format: str) -> Launch:
    """Chosen rows, copied."""
    from pyroclast_kernels.gather_rows.triton_kernels import launch_gather_rows

    return launch_gather_rows
