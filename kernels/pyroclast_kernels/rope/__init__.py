"""The ops `rope_table` and `rope`: rotary positions, and the write of K and V to the cache."""

FORMATS = ("f32", "f16")  # of the cache
OP_FORMATS = {"rope_table": ("f32",)}  # an op of this folder that differs
