"""What a run reports: log.jsonl, samples.jsonl, and a progress bar with loss and tokens/s."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyroclast.train.disk import writing_to
from pyroclast_kernels.whole_file import write_text

OnLine = Callable[[dict[str, Any]], None]


class RunLog:
    """The log of a run of n_steps steps that goes on after first_step; a context manager.

    Lines of later steps, which a resumed run computes again, are removed.  on_line gets every line
    that is written to log.jsonl.  wanted None: a bar if stderr is a terminal."""

    def __init__(
        self,
        folder: Path,
        n_steps: int,
        first_step: int = 0,
        on_line: OnLine | None = None,
        wanted: bool | None = None,
    ) -> None:
        self.log, self.samples = folder / "log.jsonl", folder / "samples.jsonl"
        self._on_line = on_line
        for path in (self.log, self.samples):
            _keep_until(path, first_step)
        self._bar = _bar(n_steps, first_step, wanted)
        self._last_s = time.monotonic()

    def step(self, step: int, loss: float, n_tokens: int, **more: Any) -> None:
        """One update: {step, loss, tokens_per_s, seconds, ...}, timed from the one before."""
        now_s = time.monotonic()
        seconds, self._last_s = max(now_s - self._last_s, 1e-9), now_s
        speed = n_tokens / seconds
        line = {"step": step, "loss": loss, "tokens_per_s": speed, "seconds": seconds, **more}
        _append(self.log, line)
        if self._on_line is not None:
            self._on_line(line)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            shown = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
            self._bar.set_postfix_str(f"loss {loss:.3f}, {shown} tokens/s")

    def sample(self, step: int, text: str, **more: Any) -> None:
        """What the model wrote at a step: {step, text, ...}.  Its time is not the next step's."""
        _append(self.samples, {"step": step, "text": text, **more})
        self.pause()

    def sampled_steps(self) -> list[int]:
        """The steps of which samples.jsonl has a text."""
        return [int(line["step"]) for line in read_lines(self.samples)]

    def pause(self) -> None:
        """The time since the last step belongs to no step."""
        self._last_s = time.monotonic()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; [] where there is none.  A last line that was cut short is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _append(path: Path, line: dict[str, Any]) -> None:
    with writing_to(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Removes the lines of later steps."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        with writing_to(path):
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _bar(n_steps: int, first_step: int, wanted: bool | None) -> Any:
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        return None
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=n_steps, initial=first_step, unit="step", leave=False, file=sys.stderr)
