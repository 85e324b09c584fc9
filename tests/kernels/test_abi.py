"""The C structs, field by field, against the parameters of the NumPy references."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pyroclast_kernels.q8_blocks import Q8_BLOCK
from pyroclast_kernels.registry import OP_NAMES, folder_of, get_op

PACKAGE = Path(__file__).parents[2] / "kernels" / "pyroclast_kernels"
_FIELD = re.compile(r"^\s*(?:const )?(\w+)\s*(\*?)(\w+);$", re.MULTILINE)


def struct_fields(op: str) -> list[tuple[str, str]]:
    """(name, C type) of each field of the op's argument struct."""
    name = "".join(part.capitalize() for part in op.split("_")) + "Args"
    folder = PACKAGE / folder_of(op)
    for source in sorted([*folder.rglob("*.cpp"), *folder.rglob("*.h")]):
        found = re.search(rf"struct {name} {{(.*?)}};", source.read_text(), re.DOTALL)
        if found:
            return [(field, kind + star) for kind, star, field in _FIELD.findall(found.group(1))]
    raise AssertionError(f"no struct {name} in the C++ of {folder_of(op)}")


@pytest.mark.parametrize("op", OP_NAMES)
def test_struct_has_the_parameters_of_the_reference(op: str) -> None:
    fields = struct_fields(op)
    assert tuple(name for name, _ in fields) == get_op(op).parameters
    for name, kind in fields:
        assert kind.endswith("*") or kind in ("int64_t", "double"), f"{name} is not 8 bytes wide"


def test_q8_block_mirrors_the_header() -> None:
    header = (PACKAGE / "native" / "abi.h").read_text()
    body = re.search(r"struct Q8Block {(.*?)}", header, re.DOTALL)
    assert body is not None
    names = re.findall(r"^\s*(?:float|int32_t|int8_t) (\w+)", body.group(1), re.MULTILINE)
    assert tuple(names) == Q8_BLOCK.names
    assert Q8_BLOCK.itemsize == 64
    assert Q8_BLOCK["values"].shape == (32,) and Q8_BLOCK["values"].base == np.int8
