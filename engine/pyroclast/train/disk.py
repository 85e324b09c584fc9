"""What a run cannot write, as errors for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pyroclast.errors import TrainingError, reason_of

RESUMES = "the same command resumes the run"
# torch reports a full disk as a RuntimeError that says nothing of it.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


@contextmanager
def writing_to(path: str | Path, hint: str = RESUMES) -> Iterator[None]:
    """Turns what writers raise in the block into a TrainingError with a hint how to go on."""
    try:
        yield
    except WRITE_ERRORS as error:
        raise cannot_write(path, error, hint) from error


def cannot_write(path: str | Path, error: Exception, hint: str) -> TrainingError:
    """The error for people."""
    is_plain = isinstance(error, OSError)
    reason = reason_of(error) if is_plain else f"is the disk full? ({error})"
    ending = f"; {hint}" if hint else ""
    return TrainingError(f"{path}: cannot be written: {reason}{ending}")
