"""The op `embed`: rows of the (packed) embedding matrix, one per token."""

from pyroclast_kernels.matmul import FORMATS

__all__ = ["FORMATS"]
