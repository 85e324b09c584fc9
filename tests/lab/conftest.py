"""The model that tests of the lab time."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its d_model and d_ff are multiples of 32: every format fits."""
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    return tiny.write_gguf(path, tiny.BASE, tiny.random_weights(tiny.BASE))
