"""quantize and glu, compiled by Numba: see kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("quantize")
numba_abi.register("glu")
