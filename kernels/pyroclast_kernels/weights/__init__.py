"""Weight formats: how a file stores them, how kernels want them packed, and the way between."""

BLOCK_FORMATS = (  # products of these take quantized activations
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_nl", "iq4_xs", "iq3_s", "mxfp4", "t4_k",
)  # fmt: skip
PACKED_FORMATS = ("f32", "f16", "bf16", *BLOCK_FORMATS)  # what kernels compute with
