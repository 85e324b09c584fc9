"""Kinds whose cases are independent inputs: drawn from a seed, used, and replayed one by one."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from torture.campaign import Kind
from torture.record import Record


class Cases(Protocol):
    """Draws inputs, and uses one; made once in each child, in an empty current folder."""

    def draw(self, dice: Random) -> bytes:
        """The next input."""
        ...

    def check(self, payload: bytes) -> None:
        """Uses an input; a PyroclastError refuses it."""
        ...


def kind_of(name: str, make: Callable[[], Cases], **options: Any) -> Kind:
    """A kind whose cases are independent inputs."""

    def run(seed: int, deadline: float, record: Record) -> None:
        warnings.simplefilter("ignore")
        logging.disable()
        cases, dice = make(), Random(seed)
        while True:  # one at least: making the cases may have taken all the time
            payload = cases.draw(dice)
            with record.case(payload):
                cases.check(payload)
            if time.monotonic() >= deadline:
                break

    def replay(payload: bytes) -> None:
        make().check(payload)

    return Kind(name, run, replay, **options)
