"""The op `layer_input`: what a layer is told of the token itself, through a gate.

See reference.py for the contract.
"""

FORMATS = ("f32",)
