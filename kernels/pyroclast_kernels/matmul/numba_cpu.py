"""matmul and pack, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels import numba_abi
from pyroclast_kernels.matmul import SIMPLE_FORMATS

numba_abi.register("matmul", SIMPLE_FORMATS)
numba_abi.register("pack", SIMPLE_FORMATS)
