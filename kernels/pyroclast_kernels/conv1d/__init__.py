"""The op `conv1d`: the short causal convolution of a recurrent layer, one filter per channel.

See reference.py for the contract.
"""

FORMATS = ("f32",)
# What surrounds the filter: the op's parameter `kind` is the place in this list.
KINDS = ("silu", "gated")
