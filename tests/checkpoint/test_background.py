"""Work beside the loading of weights."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pyroclast.checkpoint import background
from pyroclast.checkpoint.background import Background


def test_the_result_is_what_the_work_returns() -> None:
    began, may_end = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        assert may_end.wait(60)
        return threading.current_thread().name

    running = Background(work, "beside")
    assert began.wait(60), "it begins before anybody asks for the result"
    may_end.set()
    assert running.result() == "beside"


def test_an_error_is_raised_where_the_result_is_wanted() -> None:
    def work() -> None:
        raise ValueError("no")

    running = Background(work, "beside")
    with pytest.raises(ValueError, match="no"):
        running.result()


def test_without_threads_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(background.threading.Thread, "start", start)
    running = Background(lambda: threading.current_thread().name, "beside")
    assert running.result() == threading.current_thread().name


def test_without_a_thread_the_caller_does_the_work() -> None:
    running = Background(lambda: threading.current_thread().name, "beside", in_thread=False)
    assert running.result() == threading.current_thread().name
