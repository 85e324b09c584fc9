"""sparse_gate, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("sparse_gate")
