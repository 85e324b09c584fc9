"""A random job for a model: what to ask, on which face, and when to lose interest."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from pyroclast import LLM, AsyncLLM, Completion, SamplingParams
from pyroclast.engine.async_stream import AsyncStream
from pyroclast.engine.output import Score, TokenLogprobs

MAX_PROMPT, MAX_NEW = 40, 24


class ProcessorError(Exception):
    """What a logits processor of a job raises."""


@dataclass
class Job:
    """`how`: generate, stream, score or logits.  `patience`: chunks until the reader leaves, None
    for never; a coroutine is cancelled after as many milliseconds."""

    how: str
    prompt: list[int]
    params: SamplingParams
    patience: int | None = None
    slow: bool = False
    priority: str = "interactive"
    names: list[str] = field(default_factory=list)

    def alone(self, llm: LLM) -> Any:
        """The outcome without neighbours and without cancels."""
        try:
            if self.how in ("score", "logits"):
                return self._read(llm)
            return shown(llm.generate(self.prompt, self.params))
        except Exception as error:  # noqa: BLE001 - an outcome as well
            return error

    def call(self, llm: LLM, rng: random.Random) -> Any:
        """The outcome, or None if the job lost interest."""
        if self.how in ("score", "logits"):
            return self._read(llm)
        if self.how == "generate":
            return shown(llm.generate(self.prompt, self.params))
        stream = llm.stream(self.prompt, self.params)
        for n_chunks, _ in enumerate(stream):
            if self.slow:
                time.sleep(0.001)
            if n_chunks == self.patience:
                if rng.random() < 0.5:
                    stream.close()
                return None
        return shown(stream.completions)

    async def await_call(self, model: AsyncLLM, rng: random.Random) -> Any:
        """The same on the other face."""
        await asyncio.sleep(rng.random() * 0.01)
        task = asyncio.ensure_future(self._awaited(model, rng))
        if self.patience is None or self.how == "stream":
            return await task
        await asyncio.wait([task], timeout=self.patience / 1000)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None

    async def _awaited(self, model: AsyncLLM, rng: random.Random) -> Any:
        if self.how == "score":
            return await model.score(self.prompt, n_top=2, priority=self.priority)
        if self.how == "logits":  # has only the other face
            return await asyncio.to_thread(self._read, model.llm)
        if self.how == "generate":
            return shown(await model.generate(self.prompt, self.params, priority=self.priority))
        name = f"{rng.random()}"
        stream = model.stream(self.prompt, self.params, priority=self.priority, request_id=name)
        n_chunks = 0
        async for _ in stream:
            if self.slow:
                await asyncio.sleep(0.001)
            if n_chunks == self.patience:
                return await self._leave(model, stream, name, rng)
            n_chunks += 1
        return shown(stream.completions)

    async def _leave(
        self, model: AsyncLLM, stream: AsyncStream, name: str, rng: random.Random
    ) -> None:
        """Closes the stream, aborts it, or drops it."""
        way = rng.randrange(3)
        if way == 0:
            await stream.aclose()
        elif way == 1:
            model.abort(name)

    def _read(self, llm: LLM) -> Any:
        if self.how == "score":
            return llm.score(self.prompt, n_top=2)
        return llm.logits(self.prompt).tobytes()


def shown(completions: list[Completion]) -> list[Any]:
    """What must be the same: everything but the times."""
    found = [
        (
            each.index,
            each.token_ids,
            each.text,
            each.finish_reason,
            each.stop_reason,
            each.logprobs,
            each.prompt_logprobs,
        )
        for each in completions
    ]
    return sorted(found, key=lambda each: each[0])


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two outcomes are equal, log-probabilities within a tolerance."""
    if isinstance(one, TokenLogprobs | Score) and type(one) is type(other):
        return same(astuple(one), astuple(other), tolerance)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        return all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return bool(one == other)


def random_job(rng: random.Random, llm: LLM) -> Job:
    """Any job that `llm` can take; some fail, and then fail everywhere."""
    prompt = [rng.randrange(256) for _ in range(rng.randint(1, MAX_PROMPT))]
    if rng.random() < 0.3:  # a prompt that others begin with as well
        prompt = list(range(33, 33 + rng.randint(1, MAX_PROMPT)))
    how = rng.choice(["generate"] * 4 + ["stream"] * 5 + ["score", "logits"])
    return Job(
        how,
        prompt,
        random_params(rng, llm),
        patience=rng.randint(0, 12) if rng.random() < 0.35 else None,
        slow=rng.random() < 0.2,
        priority=rng.choice(["interactive", "interactive", "batch"]),
    )


def random_params(rng: random.Random, llm: LLM) -> SamplingParams:
    """A few parameters at a time, always with a seed."""
    may: dict[str, Any] = {
        "n": rng.randint(2, 4),
        "temperature": rng.choice([0.0, 0.3, 2.5]),
        "top_p": rng.random(),
        "top_k": rng.randint(1, 30),
        "min_p": rng.random() * 0.5,
        "typical_p": 0.1 + rng.random() * 0.9,
        "top_n_sigma": rng.random() * 3,
        "repetition_penalty": 0.5 + rng.random(),
        "presence_penalty": rng.random() * 2 - 1,
        "frequency_penalty": rng.random() * 2 - 1,
        "stop": [rng.choice("abcdefgh") for _ in range(3)] + ["ab"],
        "stop_token_ids": [rng.randrange(256) for _ in range(20)],
        "ignore_eos": True,
        "logprobs": rng.randint(0, 5),
        "prompt_logprobs": rng.randint(0, 5),
        "logit_bias": {rng.randrange(256): rng.uniform(-9, 9) for _ in range(5)},
        "allowed_token_ids": [rng.randrange(256) for _ in range(rng.randint(1, 60))],
        "skip_special_tokens": False,
        "logits_processors": [_processor(rng)],
    }
    if hasattr(llm.tokenizer, "token_bytes"):
        may["structured"] = rng.choice(_STRUCTURED)
    chosen = rng.sample(sorted(may), rng.randint(0, 5))
    max_tokens = rng.randint(1, MAX_NEW)
    params = {name: may[name] for name in chosen}
    params |= {"seed": rng.randrange(2**64), "max_tokens": max_tokens}
    if rng.random() < 0.3:
        params["min_tokens"] = rng.randint(0, max_tokens)
    return SamplingParams(**params)


_STRUCTURED = (
    {"regex": "[a-f]{2,9}(the|and)?"},
    {"choice": ["the", "then", "and", "x"]},
    {"json_object": True},
    {"json": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
)


def _processor(rng: random.Random) -> Any:
    """A pure function of the tokens; one in three fails at some length."""
    length = rng.randint(1, MAX_PROMPT + MAX_NEW) if rng.random() < 0.3 else -1

    def process(token_ids: list[int], logits: Any) -> Any:
        if len(token_ids) == length:
            raise ProcessorError(f"at {length} tokens")
        return np.roll(logits, sum(token_ids) % 7)

    return process
