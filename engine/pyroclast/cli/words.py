"""Words for what commands print."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
