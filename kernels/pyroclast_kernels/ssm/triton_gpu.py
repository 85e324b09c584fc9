"""ssm in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("ssm").gpu_variant("triton")
def ssm(_format: str) -> Launch:
    """The recurrence of each head, token by token."""
    from pyroclast_kernels.ssm.triton_kernels import launch_ssm

    return launch_ssm
