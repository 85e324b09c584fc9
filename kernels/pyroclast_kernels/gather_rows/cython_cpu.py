"""gather_rows, compiled by Cython: see cython_cpu.pyx."""

from pyroclast_kernels.cython import modules as cython_modules

cython_modules.register("gather_rows")
