"""sample, compiled by Cython: see cython_cpu.pyx."""

from pyroclast_kernels import cython_modules

cython_modules.register("sample")
