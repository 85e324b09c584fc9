"""Triton's kernels, on a GPU or in the interpreter: `TRITON_INTERPRET=1 pytest tests/gpu`."""

import os

import numpy as np
import pytest

from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.interpreter import make_quick

HERE = os.path.dirname(__file__)


class FixedOrder:
    """NumPy, whose products of matrices add in one order.  The interpreter's tl.dot is a product of
    BLAS, whose order depends on the shapes on some CPUs; a GPU's does not."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def matmul(a, b, dtype=None):
        a, b = a.astype(dtype or a.dtype, copy=False), b.astype(dtype or b.dtype, copy=False)
        if a.dtype.kind != "f" or a.ndim != 2:
            return np.matmul(a, b)
        total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for column, row in zip(a.T, b, strict=True):
            total += column[:, None] * row
        return total


if os.environ.get("TRITON_INTERPRET") == "1" and not triton_device.why_not():
    from triton.runtime import interpreter

    interpreter.np = FixedOrder()
    make_quick()


def pytest_collection_modifyitems(items):
    """Without either, these tests say so; CI has the interpreter, and skips nothing."""
    reason = triton_device.why_not()
    for item in items:
        if reason and str(item.path).startswith(HERE) and "tells" not in item.keywords:
            assert not os.environ.get("CI"), f"CI must run the Triton tests: {reason}"
            item.add_marker(pytest.mark.skip(reason=reason))
