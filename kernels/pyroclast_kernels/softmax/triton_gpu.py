"""softmax in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("softmax").gpu_variant("triton")
def softmax(_format: str) -> Launch:
    """Rows of logits to probabilities or log-probabilities."""
    from pyroclast_kernels.softmax.triton_kernels import launch_softmax

    return launch_softmax
