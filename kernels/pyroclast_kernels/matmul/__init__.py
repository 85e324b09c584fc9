"""The op `matmul`: packed weights times a ragged batch of tokens; and `pack`, which lays them out.

See reference.py for the contract, packing.py for the layout, cases.py for the case list.
"""

FORMATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
BLOCK_FORMATS = ("q8_0", "q4_0", "q4_1")  # these take quantized activations
