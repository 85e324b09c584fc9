"""Models whose texts repeat, so that drafts are tried and some are right, and what compares their
answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fake_model import EOS, FakeModel, hashed
from pyroclast import LLM, Completion, SamplingParams
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


def accepted(outs: list[Completion]) -> int:
    return sum(out.timings.n_accepted_tokens for out in outs)


def drafted(outs: list[Completion]) -> int:
    return sum(out.timings.n_drafted_tokens for out in outs)


PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8},
    "penalties": {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.2},
    "min tokens": {"min_tokens": 40, "stop_token_ids": (97,), "ignore_eos": False},
    "bias": {"logit_bias": {99: 3.0}, "allowed_token_ids": tuple(range(200))},
    "stop string": {"stop": ("abca", "ff"), "min_tokens": 8},
    "end of text": {"ignore_eos": False, "logit_bias": {EOS: 2.0}},
    "logprobs": {"logprobs": 2, "prompt_logprobs": 1},
    "cuts": {"top_p": 0.9, "top_k": 4, "min_p": 0.05},
    "grammar": {"structured": {"regex": "(ab|cd|ef){3,40}"}},
    "grammar and logprobs": {"structured": {"regex": "(ab|cd|ef){3,40}"}, "logprobs": 1},
    "grammar and forced text": {"structured": {"regex": "((abcdefab|cabc|d){2}e){2,9}"}},
    "grammar and penalties": {
        "structured": {"regex": "[a-f]{9,60}"},
        "frequency_penalty": 0.4,
        "min_tokens": 5,
        "allowed_token_ids": tuple(range(97, 102)),
    },
}


def params_of(name: str, seed: int = 5, **changes: Any) -> SamplingParams:
    given = {"seed": seed, "max_tokens": 60, "ignore_eos": True}
    return SamplingParams(**{**given, **PARAMS[name], **changes})
