"""embed, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.matmul import NUMBA_FORMATS
from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("embed", NUMBA_FORMATS)
