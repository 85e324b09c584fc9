"""Pyroclast: LLM generation for Python over native kernels that are chosen at run time.

    from pyroclast import LLM, SamplingParams

    with LLM("smollm2-135m-instruct") as llm:
        [answer] = llm.generate("The capital of France is", SamplingParams(max_tokens=8))
        print(answer.text)

Names are imported when they are first used, so `import pyroclast` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyroclast.async_llm import AsyncLLM
    from pyroclast.engine.async_stream import AsyncStream
    from pyroclast.engine.output import Chunk, Completion, Score, Timings, TokenLogprobs
    from pyroclast.engine.stream import Stream
    from pyroclast.errors import (
        CacheFileError,
        ClosedError,
        ContextOverflowError,
        KernelError,
        MemoryBudgetError,
        ModelFileError,
        NumericalError,
        PyroclastError,
        QueueFullError,
        ReentryError,
        RequestError,
        SamplingError,
        TemplateError,
        TokenizerError,
        TrainingError,
        UnsupportedModelError,
    )
    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.text.tokenizer import Tokenizer

__version__ = "0.1.0"

_HOMES = {
    "llm": ["LLM"],
    "async_llm": ["AsyncLLM"],
    "engine.async_stream": ["AsyncStream"],
    "sampling": ["SamplingParams"],
    "text.tokenizer": ["Tokenizer"],
    "engine.stream": ["Stream"],
    "engine.output": ["Chunk", "Completion", "Score", "Timings", "TokenLogprobs"],
    "errors": [
        "CacheFileError",
        "ClosedError",
        "ContextOverflowError",
        "KernelError",
        "MemoryBudgetError",
        "ModelFileError",
        "NumericalError",
        "PyroclastError",
        "QueueFullError",
        "ReentryError",
        "RequestError",
        "SamplingError",
        "TemplateError",
        "TokenizerError",
        "TrainingError",
        "UnsupportedModelError",
    ],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LLM",
    "AsyncLLM",
    "AsyncStream",
    "CacheFileError",
    "Chunk",
    "ClosedError",
    "Completion",
    "ContextOverflowError",
    "KernelError",
    "MemoryBudgetError",
    "ModelFileError",
    "NumericalError",
    "PyroclastError",
    "QueueFullError",
    "ReentryError",
    "RequestError",
    "SamplingError",
    "SamplingParams",
    "Score",
    "Stream",
    "TemplateError",
    "Timings",
    "TokenLogprobs",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
    "UnsupportedModelError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pyroclast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pyroclast.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next use does not call this again
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
