"""Opens modules of compiled kernels, C++ or Cython: `kernels()` is the table of their addresses.

A module is compiled for one instruction-set level, and opened only on a CPU that has it.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from pyroclast_kernels import features

_modules: list[Any] = []


def open_modules() -> list[Any]:
    """Those of C++ that have been opened."""
    return [module for module in _modules if hasattr(module, "reserve_scratch")]


@cache
def compiled_kernels(module_name: str, level: str) -> tuple[dict[str, int], str]:
    """({"op.format": address}, why there are none) of a module of this package."""
    reason = features.why_not(level)
    if reason:
        return {}, reason
    name = f"pyroclast_kernels.{module_name}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return {}, "not built: no C++ compiler at install (see `pyroclast doctor`)"
    _modules.append(module)
    return dict(module.kernels()), ""
