"""embed in Triton: see triton_rows.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("embed").gpu_variant("triton")
def embed(_format: str) -> Launch:
    """Rows of a weight in any format; the weight says which."""
    from pyroclast_kernels.embed.triton_rows import launch_embed

    return launch_embed
