"""attention, compiled by Numba: see kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("attention", ("f32", "f16"))
