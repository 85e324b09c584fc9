"""quantize and glu, compiled by Cython: see kernels.pyx."""

from pyroclast_kernels.cython import modules as cython_modules

cython_modules.register("quantize")
cython_modules.register("glu")
