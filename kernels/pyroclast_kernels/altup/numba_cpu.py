"""altup_predict, altup_correct and match_rms, compiled by Numba: see numba_kernels.py."""

from pyroclast_kernels.numba import abi as numba_abi

for op in ("altup_predict", "altup_correct", "match_rms"):
    numba_abi.register(op)
