"""Where the Cython kernels are: a module `_cython` in each op's folder.

It is built from cython_cpu.pyx or cython/kernels.pyx, and compiled for AVX2 only.  On a CPU without
AVX2 it is never opened, and the variant's reason says so.
"""

from __future__ import annotations

from pyroclast_kernels.native.compiled import compiled_kernels
from pyroclast_kernels.registry import folder_of, get_op


def register(op_name: str) -> None:
    """Adds the variant `cython` to an op."""
    op = get_op(op_name)
    kernels, reason = compiled_kernels(f"{folder_of(op_name)}._cython", "avx2")
    built = tuple(format for format in op.formats if f"{op_name}.{format}" in kernels)

    @op.variant("cython", formats=built or op.formats, bit_group="cython", unavailable=reason)
    def bind(format: str) -> int:
        return kernels[f"{op_name}.{format}"]
