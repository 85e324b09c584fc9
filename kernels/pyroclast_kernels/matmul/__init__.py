"""The op `matmul`: packed weights times a ragged batch of tokens; and `pack`, which lays them out.

See reference.py for the contract, packing.py for the layout, cases.py for the case list.
"""

SIMPLE_FORMATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")  # all that Numba and Cython have
BLOCK_FORMATS = (  # these take quantized activations
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
)  # fmt: skip
FORMATS = ("f32", "f16", "bf16", *BLOCK_FORMATS)
