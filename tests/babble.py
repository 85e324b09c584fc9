"""Models whose texts repeat, so that drafts are tried and some are right, and what compares their
answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fake_model import EOS, FakeModel, hashed
from pyroclast import LLM, Completion
from pyroclast.engine.speculate import Speculator
from pyroclast.llm import assemble
from random_answers import SpecialByteTokenizer

FLAT = (1.0,) * 16  # drafts cost nothing: as many are tried as there are
LETTERS = range(97, 103)


def eager(llm: LLM) -> LLM:
    """Tries every draft it can."""
    llm._loop.stepper._speculator = Speculator(FLAT)
    return llm


def babbles(history: Sequence[int]) -> np.ndarray:
    """A few letters, each mostly followed by the same other one: texts repeat, but not for long."""
    found = hashed(history[-1:])
    found[LETTERS.start : LETTERS.stop] += 9
    found[EOS] += 4
    return found


def babbling(cache: dict[str, Any] | None = None, **limits: int) -> LLM:
    """Without drafts.  Tokens are bytes, and a grammar can be asked for.  cache: see
    CacheOptions."""
    given = {"n_blocks": 256, "max_seq_len": 128, "max_batch_tokens": 64, "max_logits": 64}
    model = FakeModel(babbles, **{**given, **limits})
    return assemble(model, SpecialByteTokenizer(), "fake", "off", **(cache or {}))


def plain(outs: list[Completion]) -> list[dict[str, Any]]:
    """Everything but the times."""
    return [{**out.as_dict(), "timings": None} for out in outs]
