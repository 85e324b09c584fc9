"""matmul and pack, compiled by Cython: see kernels.pyx."""

from pyroclast_kernels.cython import modules as cython_modules

cython_modules.register("matmul")
cython_modules.register("pack")
