"""The op `swiglu`: the gate of the feed-forward block."""

FORMATS = ("f32",)
