"""altup_predict, altup_correct and match_rms in Triton: see triton_kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("altup_predict").gpu_variant("triton")
def altup_predict(_format: str) -> Launch:
    """All streams, of all streams."""
    from pyroclast_kernels.altup.triton_kernels import launch_altup_predict

    return launch_altup_predict


@get_op("altup_correct").gpu_variant("triton")
def altup_correct(_format: str) -> Launch:
    """All streams, of what changed in the first."""
    from pyroclast_kernels.altup.triton_kernels import launch_altup_correct

    return launch_altup_correct


@get_op("match_rms").gpu_variant("triton")
def match_rms(_format: str) -> Launch:
    """A factor for each row, in place."""
    from pyroclast_kernels.altup.triton_kernels import launch_match_rms

    return launch_match_rms
