"""Kernels of a language model's forward pass: ops, their variants, and the choice among them.

Knows nothing of models, text or requests.  `report()` tells every op's variants, which one runs
and why each other does not; `Selection(rules)` binds; `Recorder` and `Program` replay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyroclast_kernels.errors import KernelError

if TYPE_CHECKING:
    from pyroclast_kernels.listing import report
    from pyroclast_kernels.registry import OP_NAMES, get_op
    from pyroclast_kernels.selection import Selection

__all__ = ["OP_NAMES", "KernelError", "Selection", "get_op", "report"]


def __getattr__(name: str) -> Any:
    """The registry on first use: errors.py alone must not cost NumPy's import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"report": "listing", "Selection": "selection"}.get(name, "registry")
    return getattr(importlib.import_module(f"pyroclast_kernels.{module}"), name)
