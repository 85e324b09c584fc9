"""matmul and pack, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels import numba_abi
from pyroclast_kernels.matmul import PORTABLE_FORMATS

numba_abi.register("matmul", PORTABLE_FORMATS)
numba_abi.register("pack", PORTABLE_FORMATS)
