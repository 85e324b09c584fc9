"""The ops `swiglu`, the gate of the feed-forward block, and `quantize`, activations to 8 bits."""

FORMATS = ("f32",)
