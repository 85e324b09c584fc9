"""Kernels of a language model's forward pass: ops, their variants, and the choice among them.

Knows nothing of models, text or requests.  `report()` tells every op's variants, which one runs
and why each other does not; `Selection(rules)` binds; `Recorder` and `Program` replay.
"""

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.registry import OP_NAMES, Selection, get_op, report

__all__ = ["OP_NAMES", "KernelError", "Selection", "get_op", "report"]
