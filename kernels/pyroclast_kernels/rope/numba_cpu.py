"""rope_table and rope, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("rope_table")
numba_abi.register("rope", ("f32", "f16"))
