"""gated_norm and sigmoid_gate, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("gated_norm")
numba_abi.register("sigmoid_gate")
