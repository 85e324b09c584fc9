"""What every command reads from and writes to: text in, text out, errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from pyroclast.errors import RequestError
from pyroclast.progress import off_the_line


def fail(message: str, code: int, notes: Sequence[str] = ()) -> NoReturn:
    """Ends the process: `pyroclast: error: ...` on stderr, in one line, and the exit code.  notes:
    a further line for each, with what else helps."""
    try:
        print("pyroclast: error:", " ".join(message.split()), file=sys.stderr)
        for note in notes:
            print(note, file=sys.stderr)
    except OSError:  # nobody can be told, but the exit code still counts
        discard(sys.stderr)
    raise SystemExit(code)


def warn(message: str) -> None:
    """`pyroclast: warning: ...` on stderr, in one line."""
    print("pyroclast: warning:", " ".join(message.split()), file=sys.stderr)


def tell(message: str) -> None:
    """What takes a while, for somebody who waits at a terminal."""
    if sys.stderr.isatty():
        print(colour(message, "2", sys.stderr), file=sys.stderr)


def open_streams() -> None:
    """Opens the standard streams with which we were started closed (`>&-`).

    Otherwise the next file that is opened would take their numbers, and the streams would be None.
    Input is empty, messages go nowhere, and output fails when it is written."""
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)  # the lowest free number: the stream's own
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def discard(stream: Any) -> None:
    """Sends what Python still buffers for a stream, and all that follows, nowhere: at its end the
    interpreter would complain and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def read_text(text: str) -> str:
    """The argument itself, or standard input for "-".  Bytes that are not UTF-8 are wrong usage."""
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            fail(f"standard input is not UTF-8: byte {error.start} is invalid", code=2)
        text = text.removesuffix("\n").removesuffix("\r")
    # Python passes bytes of an argument that are not UTF-8 on as lone surrogates.
    if any("\ud800" <= char <= "\udfff" for char in text):
        fail("the text is not valid UTF-8", code=2)
    return text


def write(text: str = "", end: str = "\n") -> None:
    """Prints above any progress bar, and flushes: people watch a stream as it comes.  Output that
    cannot be written, to a full device or a closed stream, is an error; a reader who left is main's
    business."""
    try:
        with off_the_line():
            print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        fail(f"cannot write to standard output: {error.strerror}", code=1)


@contextmanager
def usage() -> Iterator[None]:
    """What is wrong with the flags, as checked inside, ends the command with exit code 2."""
    try:
        yield
    except RequestError as error:
        fail(str(error), code=2)


def counted(n: int, noun: str) -> str:
    """A number and its noun: 1 step, 2 steps, 1,000 steps."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def colour(text: str, code: str, stream: Any = None) -> str:
    """`text` in an ANSI colour if the stream is a terminal and NO_COLOR is not set."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"
