"""The op `matmul`: packed weights times a ragged batch of tokens; `gate_up`, two such products and
their SwiGLU in one; and `pack`, which lays the weights out.

See reference.py for the contract, packing.py for the layout, cases.py for the case list.
"""

SIMPLE_FORMATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
PORTABLE_FORMATS = (*SIMPLE_FORMATS, "q4_k")  # all that Numba and Cython have
BLOCK_FORMATS = (  # these take quantized activations
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
)  # fmt: skip
FORMATS = ("f32", "f16", "bf16", *BLOCK_FORMATS)
OP_FORMATS = {"gate_up": BLOCK_FORMATS}
# C++ variants beside one for each level: name -> the level in whose build they are, registered as
# "matmul.<format>@<name>".  avx512bf16 rounds activations to bfloat16: bits of its own.
CPP_VARIANTS = {"matmul": {"avx512bf16": "avx512vnni"}}
