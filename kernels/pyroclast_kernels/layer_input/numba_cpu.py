"""layer_input, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("layer_input")
