"""The ops `rope_table` and `rope`: rotary positions, and the write of K and V to the cache."""

from pyroclast_kernels.attention import FORMATS  # of the cache

__all__ = ["FORMATS", "OP_FORMATS"]
OP_FORMATS = {"rope_table": ("f32",)}  # an op of this folder that differs
