"""Where the Cython kernels are: a module `_cython` in each op's folder, built from cython_cpu.pyx.

They are compiled for AVX2 only; a CPU without it is told so and never opens them.
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
