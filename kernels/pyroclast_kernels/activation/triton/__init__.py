"""quantize and glu in Triton: see kernels.py."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op
from pyroclast_kernels.triton.launch import Launch


@get_op("quantize").gpu_variant("triton")
def quantize(_format: str) -> Launch:
    """Activations to 8 bits."""
    from pyroclast_kernels.activation.triton.kernels import launch_quantize

    return launch_quantize


@get_op("glu").gpu_variant("triton")
def glu(_format: str) -> Launch:
    """f(gate) * up or f(gate), quantized as well where that is asked for."""
    from pyroclast_kernels.activation.triton.kernels import launch_glu

    return launch_glu
