"""scale_logits in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("scale_logits").gpu_variant("triton")
def scale_logits(_format: str) -> Launch:
    """A factor and a soft cap, in place."""
    from pyroclast_kernels.scale_logits.triton_kernels import launch_scale_logits

    return launch_scale_logits
