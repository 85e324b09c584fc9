"""scale_logits, compiled by Cython: see cython_cpu.pyx."""

from pyroclast_kernels.cython import modules as cython_modules

cython_modules.register("scale_logits")
