"""The error tree: one base, the built-in bases that users may rely on, and its drawing."""

import inspect
import re

import pytest

import pyroclast_kernels.errors
from pyroclast import errors

ALL = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__
}


@pytest.mark.parametrize("name", ALL)
def test_every_error_has_the_base_and_a_docstring(name: str) -> None:
    assert issubclass(ALL[name], errors.PyroclastError)
    assert ALL[name].__doc__


@pytest.mark.parametrize("name", ["SamplingError", "RequestError", "ContextOverflowError"])
def test_wrong_arguments_are_value_errors(name: str) -> None:
    assert issubclass(ALL[name], ValueError)


def test_kernel_errors_are_those_of_the_kernel_library() -> None:
    assert issubclass(errors.KernelError, pyroclast_kernels.errors.KernelError)


def test_the_drawing_is_the_tree() -> None:
    """Each line's indentation gives its parent, which must be the class's real base."""
    assert errors.__doc__ is not None
    path: list[tuple[int, str]] = []
    drawn = set()
    for line in errors.__doc__.splitlines():
        found = re.match(r"([ |+-]*)([A-Z]\w+Error)\b", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while path and path[-1][0] >= depth:
            path.pop()
        if path:
            assert ALL[path[-1][1]] in ALL[name].__bases__, line
        path.append((depth, name))
        drawn.add(name)
    assert drawn == set(ALL)
