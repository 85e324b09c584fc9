"""The op `attention`: causal attention of a ragged batch over the paged cache (see cache.py)."""

FORMATS = ("f32", "f16", "bf16", "q8_0")  # of the cache

# Positions are summed in splits of this many, cut at its multiples: part of the contract, since
# the bits of a result depend on it.
SPLIT = 512
MAX_HEAD_DIM = 512
