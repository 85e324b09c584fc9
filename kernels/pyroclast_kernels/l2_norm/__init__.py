"""The op `l2_norm`: queries and keys of length 1, for the delta rule."""

FORMATS = ("f32",)
