"""The ops `glu`, the activation of a feed-forward block, as a gated linear unit or without a gate,
and `quantize`, activations to 8 bits.
"""

FORMATS = ("f32",)
# The functions that a gate goes through; the op's parameter `activation` is the place in this list.
# gelu_tanh is the approximation by a tanh (GPT-2, Gemma), gelu the function itself; relu2 is the
# square of relu.
ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "relu", "relu2")
