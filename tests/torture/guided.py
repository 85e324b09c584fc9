"""Kinds of torture that atheris guides: inputs that reach new code are kept and changed further.

atheris counts the branches and comparisons of the Python code that it instruments.  It has wheels
for some Pythons only; without it these kinds are left out, and the campaign says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import FunctionType, ModuleType
from typing import Any, Protocol

from torture.campaign import Kind
from torture.record import Record

_N_SEEDS = 60
_MAX_INPUT_BYTES = 1 << 16
_SIGNALS = ("abrt", "bus", "fpe", "ill", "int", "segv", "term", "usr1", "usr2", "xfsz")


class Target(Protocol):
    """What is guided; made once in each child, in an empty current folder."""

    def draw(self, dice: Random) -> bytes:
        """An input to begin with."""
        ...

    def change(self, dice: Random, data: bytes) -> bytes:
        """The input with a change that knows what it means; ValueError if it means nothing."""
        ...

    def check(self, payload: bytes) -> None:
        """Uses an input; a PyroclastError refuses it."""
        ...


def why_not() -> str:
    """Why nothing can be guided here, or ""."""
    return "" if importlib.util.find_spec("atheris") else "atheris is not installed"


def guided(name: str, make: Callable[[], Target], modules: Sequence[str], **options: Any) -> Kind:
    """A kind that looks for new code in these modules."""

    def run(seed: int, deadline: float, record: Record) -> None:
        warnings.simplefilter("ignore")
        logging.disable()
        target = make()
        _fuzz(target, modules, seed, deadline, record)

    def replay(payload: bytes) -> None:
        make().check(payload)

    return Kind(name, run, replay, **options)


def _fuzz(
    target: Target, modules: Sequence[str], seed: int, deadline: float, record: Record
) -> None:
    """Never returns: libFuzzer would end the process as well, but not in time."""
    atheris: Any = importlib.import_module("atheris")
    for module in modules:
        _instrument(atheris, importlib.import_module(module))
    dice, corpus = Random(seed), Path("corpus")
    corpus.mkdir()
    for i in range(_N_SEEDS):
        (corpus / str(i)).write_bytes(target.draw(dice)[:_MAX_INPUT_BYTES])

    def one(data: bytes) -> None:
        with record.case(data):
            target.check(data)
        if time.monotonic() >= deadline:
            os._exit(0)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        dice = Random(seed)
        if dice.random() < 0.5:
            try:
                return target.change(dice, data)[:max_size]
            except (ValueError, RecursionError):
                pass
        changed: bytes = atheris.Mutate(data, max_size)
        return changed

    # A signal is the campaign's to see, and so are time and memory.
    flags = [f"-handle_{name}=0" for name in _SIGNALS]
    flags += ["-timeout=1000000", "-rss_limit_mb=0", "-malloc_limit_mb=0", "-detect_leaks=0"]
    flags += ["-verbosity=0", f"-seed={seed % (1 << 32) or 1}", f"-max_len={_MAX_INPUT_BYTES}"]
    atheris.Setup(["torture", *flags, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


def _instrument(atheris: Any, module: ModuleType) -> None:
    """Every function and method that the module defines."""
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
