"""Checks of numbers that come from files: each error names the field, what it got, the allowed."""

from __future__ import annotations

from pyroclast.errors import ModelFileError

# Well inside float32, so that converting a constant cannot overflow.
_SMALLEST, _LARGEST = 1e-30, 1e30


def check_size(field: str, value: object, limit: int) -> None:
    """ModelFileError unless value is a whole number in 1..limit."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise ModelFileError(f"{field} must be a whole number in 1..{limit}, got {value!r}")


def check_positive(field: str, value: object, largest: float = _LARGEST) -> None:
    """ModelFileError unless value is a positive number, at most `largest`."""
    match value:
        case bool():
            pass
        case int() | float() if _SMALLEST <= value <= largest:
            return
    raise ModelFileError(f"{field} must be a number in {_SMALLEST}..{largest}, got {value!r}")
