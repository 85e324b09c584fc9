"""The ops of alternating updates (AltUp), residual streams that a layer predicts and corrects:
`altup_predict`, `altup_correct`, and `match_rms`, by which new streams get the size of the first.

See reference.py for the contracts.
"""

FORMATS = ("f32",)
MAX_STREAMS = 8  # of a model; what a token's coefficients are held for
