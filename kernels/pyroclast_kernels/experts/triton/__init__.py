"""expert_gate_up, expert_down and combine in Triton: plain values in values.py, blocks of quantized
weights in blocks.py.  Imports neither torch nor triton before a launch is asked for.

f16 and bf16 weights round the activations they meet: see matmul/triton/values.py.
"""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch
from pyroclast_kernels.weights import BLOCK_FORMATS


@get_op("expert_gate_up").gpu_variant("triton", rounds=True)
def expert_gate_up(format: str) -> Launch:
    """The first half of the experts' feed-forward, of that format."""
    if format in BLOCK_FORMATS:
        from pyroclast_kernels.experts.triton.blocks import launch_block_gate_up

        return launch_block_gate_up
    from pyroclast_kernels.experts.triton.values import launch_value_gate_up

    return launch_value_gate_up


@get_op("expert_down").gpu_variant("triton", rounds=True)
def expert_down(format: str) -> Launch:
    """The second half of the experts' feed-forward, of that format."""
    if format in BLOCK_FORMATS:
        from pyroclast_kernels.experts.triton.blocks import launch_block_down

        return launch_block_down
    from pyroclast_kernels.experts.triton.values import launch_value_down

    return launch_value_down


@get_op("combine").gpu_variant("triton")
def combine(_format: str) -> Launch:
    """The weighted sum of what a token's experts gave."""
    from pyroclast_kernels.experts.triton.combine import launch_combine

    return launch_combine
