"""`steps`: tl.range with bounds that a kernel has computed or loaded.

The interpreter of Triton 3.6 keeps such numbers in arrays of one element, which NumPy 2.4 no longer
takes for the bounds of a range.  A `while` would do there, but no compiler pipelines its loads.
"""

from __future__ import annotations

import operator
from typing import Any

import triton.language as tl

from pyroclast_kernels.triton import device as triton_device


def _number(x: Any) -> int:
    return int(x.handle.data.item()) if isinstance(x, tl.tensor) else operator.index(x)


def _interpreted(begin: Any, end: Any, step: Any, num_stages: Any = None) -> range:  # noqa: ARG001
    return range(_number(begin), _number(end), _number(step))


steps: Any = _interpreted if triton_device.INTERPRETED else tl.range
