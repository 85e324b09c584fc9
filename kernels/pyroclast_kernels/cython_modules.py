"""Where the Cython kernels are: a module `_cython` in each op's folder, built from cython_cpu.pyx.

They are compiled for AVX2 only; a CPU without it is told so and never opens them.
"""

from __future__ import annotations

import importlib
from functools import cache

from pyroclast_kernels import features
from pyroclast_kernels.registry import folder_of, get_op


@cache
def cython_kernels(folder: str) -> tuple[dict[str, int], str]:
    """({"op.format": address}, why there are none) of an op's folder."""
    reason = features.why_not("avx2")
    if reason:
        return {}, reason
    name = f"pyroclast_kernels.{folder}._cython"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return {}, "not built: no C++ compiler at install (see `pyroclast doctor`)"
    return dict(module.kernels()), ""


def register(op_name: str) -> None:
    """Adds the variant `cython` to an op."""
    op = get_op(op_name)
    kernels, reason = cython_kernels(folder_of(op_name))
    built = tuple(format for format in op.formats if f"{op_name}.{format}" in kernels)

    @op.variant("cython", formats=built or op.formats, bit_group="cython", unavailable=reason)
    def bind(format: str) -> int:
        return kernels[f"{op_name}.{format}"]
