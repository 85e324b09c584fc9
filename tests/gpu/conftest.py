"""Triton's kernels, on a GPU or in the interpreter: `TRITON_INTERPRET=1 pytest tests/gpu`."""

import os

import pytest

from pyroclast_kernels.triton import device as triton_device

HERE = os.path.dirname(__file__)


def pytest_collection_modifyitems(items):
    """Without either, these tests say so; CI has the interpreter, and skips nothing."""
    reason = triton_device.why_not()
    for item in items:
        if reason and str(item.path).startswith(HERE) and "tells" not in item.keywords:
            assert not os.environ.get("CI"), f"CI must run the Triton tests: {reason}"
            item.add_marker(pytest.mark.skip(reason=reason))
