"""matmul and gate_up in Triton: plain values in values.py, blocks of quantized weights in
blocks.py and gate_up.py.  Imports neither torch nor triton before a launch is asked
for.

f16 and bf16 weights round the activations they meet: see values.py.
"""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch
from pyroclast_kernels.weights import BLOCK_FORMATS


@get_op("matmul").gpu_variant("triton", rounds=True)
def matmul(format: str) -> Launch:
    """The product of that format."""
    if format in BLOCK_FORMATS:
        from pyroclast_kernels.matmul.triton.blocks import launch_blocks

        return launch_blocks
    from pyroclast_kernels.matmul.triton.values import launch_values

    return launch_values


@get_op("gate_up").gpu_variant("triton")
def gate_up(_format: str) -> Launch:
    """Two products of quantized blocks and their `glu`; the weight says which format."""
    from pyroclast_kernels.matmul.triton.gate_up import launch_gate_up

    return launch_gate_up
