"""The op `norm`: RMS norm, with the quantization that the next product wants."""

FORMATS = ("f32",)
