"""rope_table and rope in Triton: see triton_kernels.py.  Imports neither torch nor triton before a
launch is asked for."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("rope_table").gpu_variant("triton")
def rope_table(_format: str) -> Launch:
    """Cosines and sines, in float64 as the reference's."""
    from pyroclast_kernels.rope.triton_kernels import launch_rope_table

    return launch_rope_table


@get_op("rope").gpu_variant("triton", formats=("f32", "f16", "bf16"))
def rope(_format: str) -> Launch:
    """The rotation; the cache's own type says how its cells are written."""
    from pyroclast_kernels.rope.triton_kernels import launch_rope

    return launch_rope
