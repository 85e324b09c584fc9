"""The ops that multiply by a gate of its own projection: `gated_norm`, the RMS norm behind a
recurrent layer, and `sigmoid_gate`, behind attention.

See reference.py for the contracts.
"""

FORMATS = ("f32",)
# Where the gate comes; the parameter `kind` of `gated_norm` is the place in this list.
KINDS = ("norm_first", "gate_first")
