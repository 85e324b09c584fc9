"""The op `matmul`: packed weights times a ragged batch of tokens; `gate_up`, two such products and
their gated linear unit in one; and `pack`, which lays the weights out.

See reference.py for the contract, weights/packing.py for the layout, cases.py for the case list.
"""

from pyroclast_kernels.weights import BLOCK_FORMATS, PACKED_FORMATS

__all__ = [
    "BLOCK_FORMATS", "CPP_VARIANTS", "FORMATS", "MATRIX_VARIANT", "MATRIX_VARIANT_FEW",
    "NUMBA_FORMATS", "OP_FORMATS", "PORTABLE_FORMATS", "SIMPLE_FORMATS",
]  # fmt: skip

SIMPLE_FORMATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
PORTABLE_FORMATS = (*SIMPLE_FORMATS, "q4_k")  # all that Cython has
NUMBA_FORMATS = (*PORTABLE_FORMATS, "iq4_nl", "iq4_xs", "iq3_s", "mxfp4")
FORMATS = PACKED_FORMATS
OP_FORMATS = {"gate_up": BLOCK_FORMATS}
# C++ variants beside one for each level: name -> the level in whose build they are, registered as
# "matmul.<format>@<name>".  Both round activations to bfloat16, and have bits of their own.
CPP_VARIANTS = {"matmul": {"amxbf16": "avx512vnni", "avx512bf16": "avx512vnni"}}
# The variant that multiplies in matrix registers, and up to how many tokens it does not
# (kFewTokens in cpp/bf16_matrices.cpp).
MATRIX_VARIANT, MATRIX_VARIANT_FEW = "cpp-amxbf16", 8
