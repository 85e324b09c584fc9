"""A progress bar on stderr, shown only to somebody at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_DELAY_S = 2.0  # shorter work needs no bar
_MIN_TOTAL = 3


@contextmanager
def progress_bar(
    n_total: int, unit: str, wanted: bool | None = None
) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items done.  wanted None: show a bar if stderr
    is a terminal, there are at least three items, and they take more than two seconds."""
    if wanted is None:
        wanted = n_total >= _MIN_TOTAL and sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        yield lambda _: None
        return
    # Imported late: it takes 20 ms, and a bar is rarely shown.
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=n_total, unit=unit, delay=_DELAY_S, leave=False, file=sys.stderr) as bar:

        def show(n_done: int) -> None:
            bar.update(n_done - bar.n)

        yield show


@contextmanager
def off_the_line() -> Iterator[None]:
    """Takes a bar that is shown off its line while the caller prints; it comes back below."""
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode():
        yield
