"""attention in Triton: a single new token splits its context among programs (decode.py), several
new tokens share tiles of keys (prefill.py).  Imports neither torch nor triton before a
launch is asked for.

Caches in f16 and bf16 round queries, and exponentials relative to the largest so far, to the
cache's own 16 bits.
"""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("attention").gpu_variant("triton", formats=("f32", "f16", "bf16"), rounds=True)
def attention(format: str) -> Launch:
    """The two kernels for a cache of that format."""
    from pyroclast_kernels.attention.triton.attention import launch_attention

    return launch_attention(format)
