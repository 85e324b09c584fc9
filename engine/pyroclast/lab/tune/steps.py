"""A model's real steps as a test bench: the recorded calls on the batch of a real generation, under
any variant, with the executor's timeline.

`decode` and `prefill` leave the batch of such a step in place.  A replayed step writes what it
wrote the first time, so it can run any number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import KernelError
from pyroclast.llm import LLM
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.model import Model
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.program import OpCall, Program, make_executor
from pyroclast_kernels.selection import Kernel, all_variants
from pyroclast_kernels.tables import shape_class
from pyroclast_kernels.timeline import TimelineRecorder, TimelineRun

Array = NDArray[Any]
PREFILL_TOKENS = 64  # in a prefill step: several tiles of every product
CONTEXT_TOKENS = 512  # in the cache when a decode step runs: what attention reads
_ROOM = 16


class ModelSteps:
    """A loaded model with the default kernels, without a tuned table; a context manager."""

    def __init__(
        self, model: str | Path, *, threads: int | None, compute: str, kv_dtype: str
    ) -> None:
        n_blocks = -(-(CONTEXT_TOKENS + _ROOM) // BLOCK_SIZE)
        self.llm = LLM(
            model,
            device="cpu",
            threads=threads,
            compute=compute,
            kv_dtype=kv_dtype,
            kernels="frozen",
            max_seqs=1,
            n_blocks=n_blocks,
            prefix_cache=False,  # the same prompt is read again and again
        )
        found = self.llm.model
        if make_executor(1) is None:
            raise KernelError("tuning needs the native executor: install with a C++ compiler")
        assert isinstance(found, Model), "LLM loads a Model when it is given a name"
        self.model = found
        self.program = found.program(sample=True)

    def prefill(self) -> None:
        """Leaves a step of many tokens in the batch: a whole prompt, and one row of logits."""
        self._generate(PREFILL_TOKENS, 1)

    def decode(self) -> None:
        """Leaves a step of one token, after a prompt, in the batch."""
        self._generate(CONTEXT_TOKENS, 2)

    def _generate(self, n_prompt: int, n_tokens: int) -> None:
        n_prompt = min(n_prompt, self.llm.max_seq_len - n_tokens)
        ids = [(i * 7919 + 1) % self.llm.tokenizer.vocab_size for i in range(n_prompt)]
        params = SamplingParams(temperature=0.8, seed=1, max_tokens=n_tokens, ignore_eos=True)
        self.llm.generate(ids, params)

    def rebound(self, choose: Any) -> Program:
        """The step with the kernel choose(call) in each call; None keeps the recorded one."""
        calls = [c.under(choose(c) or c.kernel) for c in self.program.calls]
        return Program(calls, self.program.executor)

    def logits(self) -> bytes:
        """The bits of the last step's logits."""
        return self.model.logits[: self.model.batch.n_logits].tobytes()

    def close(self) -> None:
        self.llm.close()

    def __enter__(self) -> ModelSteps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_class_of(call: OpCall) -> tuple[str, str, str]:
    """The op, format and shape class of a call: what a table chooses a variant for."""
    kernel = call.kernel
    return kernel.op, kernel.format, shape_class(kernel.op, call.arguments)


def bind(op: str, format: str, name: str) -> tuple[Kernel | None, str]:
    """(a variant's kernel, compiled if need be, "") or (None, why it cannot run here)."""
    variant = all_variants(op)[name]
    if variant.unavailable or format not in variant.formats:
        return None, variant.unavailable or f"does not take format {format}"
    try:
        bound = variant.bind(format)
    except KernelLibraryError as error:
        return None, str(error)
    if callable(bound):
        return Kernel(op, format, name, function=bound), ""
    return Kernel(op, format, name, address=bound), ""


def recorded_runs(programs: Sequence[Program], n_rounds: int) -> list[list[TimelineRun]]:
    """The runs of each program: all run in turn, n_rounds times, every other time in reverse."""
    with TimelineRecorder(programs, n_rounds * len(programs)) as recorder:
        for i in range(n_rounds):
            for program in programs if i % 2 == 0 else programs[::-1]:
                program.run()
    runs = recorder.runs()
    return [[run for run in runs if run.program is program] for program in programs]


def busy_ns(runs: Sequence[TimelineRun]) -> Array:
    """Nanoseconds of each call: the sum of its parts, each at its fastest over the runs.

    Other processes take the core away in a third of the long parts, but rarely in the same part of
    each of four runs."""
    program = runs[0].program
    found = np.full((len(runs), len(program.calls), program.n_parts), np.inf)
    for each, run in zip(found, runs, strict=True):
        each[run.parts["call"], run.parts["part"]] = run.parts["end_ns"] - run.parts["begin_ns"]
    fastest: Array = found.min(axis=0)
    fastest[np.isinf(fastest)] = 0.0  # a Python function is one part only
    return np.asarray(fastest.sum(axis=1))
