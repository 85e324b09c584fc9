"""rope_table and rope, compiled by Cython: see cython_cpu.pyx."""

from pyroclast_kernels.cython import modules as cython_modules

cython_modules.register("rope_table")
cython_modules.register("rope")
