"""matmul and pack, compiled by Numba: see kernels.py."""

from pyroclast_kernels.matmul import PORTABLE_FORMATS
from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("matmul", PORTABLE_FORMATS)
numba_abi.register("pack", PORTABLE_FORMATS)
