"""sample, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels import numba_abi

numba_abi.register("sample")
