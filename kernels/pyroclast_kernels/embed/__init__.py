"""The op `embed`: rows of the (packed) embedding matrix, one per token, times a factor; written, or
added to what is there (learned positions).
"""

from pyroclast_kernels.matmul import FORMATS

__all__ = ["FORMATS"]
