"""matmul and pack, compiled by Numba: see kernels.py."""

from pyroclast_kernels.matmul import NUMBA_FORMATS
from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("matmul", NUMBA_FORMATS)
numba_abi.register("pack", NUMBA_FORMATS)
