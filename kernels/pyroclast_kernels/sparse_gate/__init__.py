"""The op `sparse_gate`: what of a gate lies far above its mean, as if it were normally distributed.

See reference.py for the contract.
"""

FORMATS = ("f32",)
