"""The op `norm`: RMS or layer norm, with the quantization that the next product wants."""

FORMATS = ("f32",)
KINDS = ("rms", "layer")  # the argument `kind` is a place in this list
