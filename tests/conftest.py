"""Tests run on the default kernels, whoever tuned this machine, and on the CPU, whoever has a GPU:
the tests of the GPU ask for it.  `--quick` runs a sample of the suite (`make test-quick`)."""

from __future__ import annotations

import os

import pytest

import quick

os.environ.setdefault("PYROCLAST_FROZEN", "1")
os.environ.setdefault("PYROCLAST_DEVICE", "cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --quick."""
    parser.addoption(
        "--quick", action="store_true", help="a sample of the suite, for the inner loop"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under --quick, deselects what tests/quick.py leaves out."""
    if config.getoption("quick"):
        kept = quick.chosen(items)
        left_out = [item for item in items if item not in set(kept)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
