"""Experts, adapters, packed files, drafts, pages on disk, grammars and preemption at once: each
answer has the bits that it has alone, without any of these."""

from __future__ import annotations

import asyncio
import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_experts
from lora_files import random_pairs, write_peft
from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.model.write_packed import write_packed

RNG = np.random.default_rng(5)
LONG = RNG.integers(0, 256, 100).tolist()
PROMPTS = [LONG[:70], LONG[:40] + LONG[:40], LONG]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=2),
    SamplingParams(seed=4, n=2, max_tokens=30, ignore_eos=True, logprobs=1),
    SamplingParams(seed=9, max_tokens=40, structured={"regex": "[ab]{3,9}(cd)+"}, logprobs=1),
]
JOBS = list(product(range(len(PROMPTS)), range(len(PARAMS)), (None, "x", "y")))
Answers = dict[Any, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("together")
    config, weights = tiny_experts.CONFIG, tiny_experts.weights()
    source = tiny_experts.write_gguf(path / "m.gguf", weights, "Q8_0")
    write_packed(str(source), str(path / "m.pyro"))
    write_peft(path / "x", random_pairs(config, 4, ("wq", "wk", "wv", "wo")))
    write_peft(path / "y", random_pairs(config, 2, ("wo", "wv"), seed=1))
    return path


def answers(completions: Any) -> list[Any]:
    return [(c.token_ids, c.logprobs, c.finish_reason) for c in completions]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Answers:
    """One request after the other."""
    adapters = {"x": folder / "x", "y": folder / "y"}
    plain: dict[str, Any] = {"threads": 1, "prefix_cache": False, "speculation": "off"}
    with LLM(folder / "m.gguf", device="cpu", adapters=adapters, **plain) as llm:
        found: Answers = {
            (i, j, name): answers(llm.generate([PROMPTS[i]], PARAMS[j], adapter=name))
            for i, j, name in JOBS
        }
        found |= {name: llm.score([LONG], adapter=name) for name in (None, "x", "y")}
    assert len({str(found[job]) for job in JOBS}) == len(JOBS)
    return found


async def _at_once(llm: AsyncLLM, seed: int) -> Answers:
    order: list[Any] = [*JOBS, None, "x", "y"]
    random.Random(seed).shuffle(order)

    async def answer(job: Any) -> Any:
        if isinstance(job, tuple):
            i, j, name = job
            return answers(await llm.generate([PROMPTS[i]], PARAMS[j], adapter=name))
        return await llm.score([LONG], adapter=job)

    return dict(zip(order, await asyncio.gather(*map(answer, order)), strict=True))


@pytest.mark.parametrize("model", ["m.gguf", "m.pyro"])
def test_bits_are_those_of_each_request_alone(
    folder: Path, alone: Answers, model: str, tmp_path: Path
) -> None:
    adapters = {"x": folder / "x", "y": folder / "y"}

    async def run(seed: int, **options: Any) -> None:
        async with AsyncLLM(folder / model, device="cpu", adapters=adapters, **options) as llm:
            found = await _at_once(llm, seed)
            assert llm.llm._loop.stepper.scheduler.n_preemptions > 0
        for job, answer in found.items():
            assert answer == alone[job], (job, options)

    asyncio.run(run(1, threads=2, n_blocks=14, max_batch_tokens=37))
    for seed in (2, 3):  # the second finds the pages of the first
        asyncio.run(run(seed, threads=seed - 1, n_blocks=16, cache_dir=tmp_path / "pages"))
