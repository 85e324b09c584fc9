"""Which precision a run takes: what is asked for, or the faster one where the CPU has both."""

from __future__ import annotations

import pytest

from pyroclast.train import precision


class Clock:
    """Time passes only in trials."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self) -> float:
        return self.now

    def trial(self, name: str) -> None:
        self.now += self.seconds[name]


@pytest.mark.parametrize(
    ("flags", "seconds", "want"),
    [
        ({"avx512_bf16"}, {"float32": 2.0, "bfloat16": 1.0}, "bfloat16"),
        ({"amx_bf16"}, {"float32": 1.0, "bfloat16": 2.0}, "float32"),
        ({"avx2"}, {"float32": 2.0, "bfloat16": 1.0}, "float32"),
    ],
)
def test_auto_takes_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], seconds: dict[str, float], want: str
) -> None:
    clock = Clock(seconds)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(precision, "time", clock)
    assert precision.chosen_precision("auto", clock.trial) == want


def test_what_is_asked_for_is_taken() -> None:
    def trial(name: str) -> None:
        pytest.fail(f"{name} was tried")

    assert precision.chosen_precision("bfloat16", trial) == "bfloat16"
