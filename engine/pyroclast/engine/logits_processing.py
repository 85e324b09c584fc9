"""Steps in which users' callables change logits: the callables, then the sampler on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.step_model import StepModel
from pyroclast.errors import SamplingError
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.selection import Selection

Logits = NDArray[np.float32]


class HostSampler:
    """The op `sample` by itself, on the CPU, in the variant that `rules` choose."""

    def __init__(self, model: StepModel, arrays: SampleArrays, rules: str | None) -> None:
        self._model, self._arrays, self._rules = model, arrays, rules
        # Made at load, so that rules which cannot hold are told then; on the GPU, where the model
        # tells, when it is first needed.
        self._program: Program | None = None
        if not model.memory.on_gpu:
            self._program = self._record(model.logits)

    def run(self, processed: list[tuple[int, GenerateRequest]]) -> None:
        """Lets the callables change their rows of the step's logits, and samples all rows."""
        logits = self._model.logits
        apply_processors(processed, logits)
        if self._program is None:
            self._program = self._record(logits)
        self._program.run()

    def _record(self, logits: Logits) -> Program:
        recorder = Recorder(Selection(self._rules))
        recorder.call("sample", logits=logits, **self._arrays.on_host())
        return Program(recorder.calls)


class ProcessorError(Exception):
    """A user's callable raised (the cause) or gave back something else than logits."""

    def __init__(self, request: GenerateRequest, reason: Exception) -> None:
        super().__init__(str(reason))
        self.request, self.reason = request, reason


def apply_processors(processed: list[tuple[int, GenerateRequest]], logits: Logits) -> None:
    """Lets the users' callables change their rows of `logits` in place.

    They get a copy, so one that keeps the array does not see the next step's logits."""
    for row, request in processed:
        for process in request.params.logits_processors:
            try:
                changed = process(list(request.token_ids), logits[row].copy())
                logits[row] = _checked(changed, logits.shape[1])
            except Exception as error:
                raise ProcessorError(request, error) from error


def _checked(changed: Any, vocab_size: int) -> Logits:
    array = np.asarray(changed, np.float32)
    if array.shape != (vocab_size,):
        raise SamplingError(
            f"a logits processor must return an array of shape ({vocab_size},), got {array.shape}"
        )
    return array
