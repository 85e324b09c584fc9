"""Steps in which users' callables change logits: the callables, then the sampler on the CPU."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.generate_request import GenerateRequest, RequestFailedError
from pyroclast.engine.step_model import StepModel
from pyroclast.errors import SamplingError
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.selection import Selection

Logits = NDArray[np.float32]

_MAX_NAME_CHARS = 100


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
        # No name for the logits here: see apply_processors.
        apply_processors(processed, self._model.logits)
        if self._program is None:
            self._program = self._record(self._model.logits)
        self._program.run()

    def close(self) -> None:
        """Lets go of the model's logits."""
        if self._program is not None:
            self._program.close()
        self._program = None

    def _record(self, logits: Logits) -> Program:
        recorder = Recorder(Selection(self._rules))
        recorder.call("sample", logits=logits, **self._arrays.on_host())
        return Program(recorder.calls)


def apply_processors(processed: list[tuple[int, GenerateRequest]], logits: Logits) -> None:
    """Lets the users' callables change their rows of `logits` in place.

    They get a copy, so one that keeps the array does not see the next step's logits."""
    for row, request in processed:
        for process in request.params.logits_processors:
            given = logits[row]
            try:
                changed = process(list(request.token_ids), given.copy())
                array = _as_logits(changed, given.shape, process)
                # The maximum is NaN if anything is.  Logits that were not finite before are the
                # model's fault.
                if not np.isfinite(array.max()) and np.isfinite(given.max()):
                    _refuse(array, process)
                given[:] = array
            except Exception as error:
                # Whoever keeps the error keeps its traceback: without the model's logits.
                del logits, given
                raise RequestFailedError(request, error, has_run=True) from error


def _as_logits(changed: Any, shape: tuple[int, ...], process: Any) -> Logits:
    """What a processor gave back, as an array of that shape; SamplingError if it is none."""
    if changed is None:
        raise SamplingError(
            f"logits processor {_name(process)} returned None; it must return the logits, also "
            "where it changed the array that it was given"
        )
    try:
        with np.errstate(over="ignore"):  # a float64 too large for float32 is an infinity below
            array = np.asarray(changed, np.float32)
    except (TypeError, ValueError) as error:
        raise SamplingError(f"logits processor {_name(process)} gave no array: {error}") from error
    if array.shape != shape:
        raise SamplingError(
            f"logits processor {_name(process)} must return an array of shape {shape}, "
            f"got {array.shape}"
        )
    return array


def _refuse(array: Logits, process: Any) -> NoReturn:
    bad = np.flatnonzero(np.isnan(array) | np.isposinf(array))
    if not len(bad):
        raise SamplingError(
            f"logits processor {_name(process)} gave -inf for every token, which leaves none to "
            "choose from; leave at least one finite"
        )
    others = f" and {len(bad) - 1} other tokens" if len(bad) > 1 else ""
    raise SamplingError(
        f"logits processor {_name(process)} gave {array[bad[0]]} for token {bad[0]}{others}; "
        "a logit must be a finite float32, or -inf to forbid its token"
    )


def _name(process: Any) -> str:
    """A callable's name for people, clipped: a repr may show whole arrays."""
    name = getattr(process, "__qualname__", None)
    name = name if isinstance(name, str) else repr(process)
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}..."
