"""The op `residual`: what a block adds to the residual stream, normed first, or scaled."""

FORMATS = ("f32",)
AS_IT_IS = -1  # `kind` of a block whose output is not normed; else a place in norm.KINDS
