"""Checks of numbers that come from files: each error names the field, what it got, the allowed."""

from __future__ import annotations

from pyroclast.errors import ModelFileError

# Well inside float32, so that converting a constant cannot overflow.
_SMALLEST, _LARGEST = 1e-30, 1e30


def check_size(field: str, value: object, limit: int) -> None:
    """ModelFileError unless value is a whole number in 1..limit."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise ModelFileError(f"{field} must be a whole number in 1..{limit}, got {value!r}")


def check_positive(
    field: str, value: object, largest: float = _LARGEST, smallest: float = _SMALLEST
) -> None:
    """ModelFileError unless value is a number in smallest..largest, both positive."""
    check_number(field, value, smallest, largest)


def check_number(field: str, value: object, lowest: float, highest: float) -> None:
    """ModelFileError unless value is a number in lowest..highest."""
    match value:
        case bool():
            pass
        case int() | float() if lowest <= value <= highest:
            return
    raise ModelFileError(f"{field} must be a number in {lowest}..{highest}, got {value!r}")


def check_flag(field: str, value: object) -> None:
    """ModelFileError unless value is True or False."""
    if not isinstance(value, bool):
        raise ModelFileError(f"{field} must be true or false, got {value!r}")
