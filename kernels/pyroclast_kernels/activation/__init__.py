"""The ops `glu`, a gated linear unit (the first half of a feed-forward block), and `quantize`,
activations to 8 bits.
"""

FORMATS = ("f32",)
# The functions that a gate goes through; the op's parameter `activation` is the place in this list.
# gelu_tanh is the approximation by a tanh (GPT-2, Gemma), gelu the function itself.
ACTIVATIONS = ("silu", "gelu_tanh", "gelu")
