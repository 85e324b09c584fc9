"""Tests run on the default kernels, whoever tuned this machine, and on the CPU, whoever has a GPU:
the tests of the GPU ask for it.  `--quick` (`make test-quick`) and `--at-most N` run a sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import quick

if TYPE_CHECKING:
    from family_folders import FamilyFolders

os.environ.setdefault("PYROCLAST_FROZEN", "1")
os.environ.setdefault("PYROCLAST_DEVICE", "cpu")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core.  More threads of torch and of NumPy's BLAS wait for each
    # other in loops: attention's reference took three times as long.  Ours are as many as ever.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def child_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the packages, and what tests share."""
    paths = [str(ROOT / folder) for folder in ("engine", "kernels", "tests")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> FamilyFolders:
    """Folders of tiny models of every family, which the workers of a run share."""
    from family_folders import FamilyFolders

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    return FamilyFolders(root / "families")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --quick and --at-most."""
    parser.addoption(
        "--quick", action="store_true", help="a sample of the suite, for the inner loop"
    )
    parser.addoption(
        "--at-most",
        type=int,
        metavar="N",
        help="of a test with many parameter sets: N, spread evenly",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what tests/quick.py leaves out."""
    at_most = config.getoption("at_most")
    if at_most is not None and at_most < 2:
        raise pytest.UsageError(f"--at-most must be 2 or more, got {at_most}")
    if config.getoption("quick") or at_most is not None:
        kept = quick.sampled(items, at_most) if at_most is not None else quick.chosen(items)
        left_out = [item for item in items if item not in set(kept)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
