"""Pairs of sampled answers, rated by a rule in place of a person, for the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pyroclast.sampling.params import SamplingParams
from pyroclast.train.measure import load
from pyroclast.train.texts import read_texts

_PROMPT_CHARS, _ANSWER_TOKENS = 40, 24
_SAMPLES = 4  # to each prompt, for measuring
_FIRST_SEED = 1 << 20  # of these: none of a pair's


def rated_pairs(model: str | Path, texts: Sequence[Path], n: int) -> list[dict[str, str]]:
    """The rows {"prompt", "chosen", "rejected"}: two continuations of each of n places of a text,
    the one that is plainer first.  Those that are as plain as each other are left out."""
    text = "\n".join(read_texts(texts))
    step = max(1, len(text) // n)
    prompts = [text[at : at + _PROMPT_CHARS] for at in range(0, len(text), step)][:n]
    # Each has its own seed: with one for all a small model gives them all the same answers.
    params = [SamplingParams(n=2, max_tokens=_ANSWER_TOKENS, seed=i) for i in range(len(prompts))]
    with load(model) as llm:
        answers = [each.text for each in llm.generate(prompts, params, progress=False)]
    found = []
    for prompt, *pair in zip(prompts, answers[::2], answers[1::2], strict=True):
        rejected, chosen = sorted(pair, key=plainness)
        if plainness(chosen) > plainness(rejected):
            found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return found


def liking(model: str | Path, adapter: Path | None, prompts: Sequence[str]) -> tuple[float, str]:
    """(the mean plainness of sampled continuations, a prompt with its first one)."""
    params = [
        SamplingParams(n=_SAMPLES, max_tokens=_ANSWER_TOKENS, seed=_FIRST_SEED + i)
        for i in range(len(prompts))
    ]
    with load(model, adapter) as llm:
        name = llm.adapters[0] if llm.adapters else None
        answers = llm.generate(list(prompts), params, adapter=name, progress=False)
    return fmean(plainness(each.text) for each in answers), prompts[0] + answers[0].text


def plainness(text: str) -> float:
    """The share of letters and spaces."""
    return sum(char.isalpha() or char == " " for char in text) / max(1, len(text))
