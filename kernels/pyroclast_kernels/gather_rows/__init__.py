"""The op `gather_rows`: chosen rows of an array, side by side (hidden states as an output)."""

FORMATS = ("f32",)
