"""expert_gate_up, expert_down and combine, compiled by Numba: see kernels.py."""

from pyroclast_kernels.experts import NUMBA_FORMATS
from pyroclast_kernels.numba import abi as numba_abi

numba_abi.register("expert_gate_up", NUMBA_FORMATS)
numba_abi.register("expert_down", NUMBA_FORMATS)
numba_abi.register("combine")
