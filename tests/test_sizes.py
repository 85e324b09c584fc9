"""Files and functions that a reader can hold in mind; what is larger is listed, with the reason."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine/pyroclast", "kernels/pyroclast_kernels")
MAX_FILE, MAX_MEDIAN, MAX_FUNCTION, MAX_FACE, MAX_COMMAND = 300, 160, 40, 8, 30
TECHNOLOGIES = ("numba", "cython", "cpp", "triton", "gpu")
# Longer than MAX_FUNCTION: kernels, whose loops are read as one; and these.
LONG_FUNCTIONS = {
    "attention/reference.py attention": "the contract of the op's 24 parameters is its docstring",
    "experts/reference.py expert_gate_up": "the contract of 16 parameters is its docstring",
    "rope/reference.py rope": "the contract of the op's 17 parameters is its docstring",
    "conv1d/reference.py conv1d": "the contract of the op's 14 parameters is its docstring",
    "delta_rule/reference.py delta_rule": "the contract of the op's 17 parameters is its docstring",
    "ssm/reference.py ssm": "the contract of the op's 18 parameters is its docstring",
}


def sources(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def is_kernel(path: Path) -> bool:
    """Whether a file holds kernels of one technology, or launches them."""
    parts = path.relative_to(ROOT).parts
    of_a_technology = any(part.startswith(TECHNOLOGIES) for part in parts[2:])
    return of_a_technology and (parts[0] == "kernels" or "templates" in parts)


def long_functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines > MAX_FUNCTION:
                yield node.name, n_lines


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_face_of_the_package_is_small() -> None:
    assert len(list((ROOT / "engine/pyroclast").glob("*.py"))) <= MAX_FACE


def test_the_commands_of_bench_are_thin() -> None:
    """Their logic is in pyroclast.lab; test_*.py are suites of pytest-benchmark."""
    commands = [p for p in (ROOT / "bench").glob("*.py") if not p.name.startswith("test_")]
    assert commands
    assert {path.name: n_lines(path) for path in commands if n_lines(path) > MAX_COMMAND} == {}


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): n_lines(path) for path in sources(ROOT)}
    assert {name: n for name, n in long.items() if n > MAX_FILE} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_file_is_short(package: str) -> None:
    sizes = [n_lines(path) for path in (ROOT / package).rglob("*.py") if n_lines(path) > 1]
    assert statistics.median(sizes) < MAX_MEDIAN


def test_long_functions_are_kernels_or_listed() -> None:
    found = {}
    for path in sources(ROOT):
        if not is_kernel(path):
            package = next(p for p in PACKAGES if path.is_relative_to(ROOT / p))
            for name, n in long_functions(path):
                found[f"{path.relative_to(ROOT / package)} {name}"] = n
    assert {name: n for name, n in found.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "listed, but short by now"


def test_the_check_sees_a_long_function(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    x = 1\n" * MAX_FUNCTION)
    assert list(long_functions(path)) == [("f", MAX_FUNCTION + 1)]
