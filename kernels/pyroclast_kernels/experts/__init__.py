"""The ops of a feed-forward block with experts: `expert_gate_up` and `expert_down`, the products of
each expert with the tokens that chose it, and `combine`, their weighted sum.

See reference.py for the contracts, route/ for who chooses.  Products take every packed format.
"""

from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.matmul import NUMBA_FORMATS
from pyroclast_kernels.weights import PACKED_FORMATS

__all__ = [
    "CPP_VARIANTS",
    "EXPERT_ACTIVATIONS",
    "FORMATS",
    "NUMBA_FORMATS",
    "OP_FORMATS",
    "stacked_rows",
]

FORMATS = PACKED_FORMATS
OP_FORMATS = {"combine": ("f32",)}
# As matmul has it: rounds activations to bfloat16, and has bits of its own.
CPP_VARIANTS = {op: {"avx512bf16": "avx512vnni"} for op in ("expert_gate_up", "expert_down")}
# What a gate goes through; quick_gelu is x / (1 + e^-1.702x), the logistic approximation of gelu
# (Hendrycks and Gimpel 2016).
EXPERT_ACTIVATIONS = (*ACTIVATIONS, "quick_gelu")


def stacked_rows(n_rows: int) -> int:
    """The rows that n_rows of an expert take in a stack of experts: whole groups of 16."""
    return -(-n_rows // 16) * 16
