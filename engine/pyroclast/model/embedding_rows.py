"""Rows of the token embedding as float32, whatever format they are kept in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyroclast.model.calls import call_embed
from pyroclast.model.inspect import check_device
from pyroclast.model.model import Model
from pyroclast_kernels.program import Program, Recorder


class EmbeddingReader:
    """Reads the vectors of tokens as they are stored, without the scale that a family multiplies
    them by, on the threads of a step, of which none may run meanwhile.  At most n_rows at a time,
    into one array.  KernelError on a GPU."""

    def __init__(self, model: Model, n_rows: int) -> None:
        check_device(model)
        program = model.program()
        call = next(call for call in program.calls if call.kernel.op == "embed")
        self._ids, self._n_tokens = np.zeros(n_rows, np.int32), np.zeros(1, np.int64)
        self._rows = np.zeros((n_rows, model.config.d_model), np.float32)
        recorder = Recorder(model.plan.selection)
        call_embed(recorder, call.arguments["weight"], self._ids, self._rows, self._n_tokens)
        self._program = Program(recorder.calls, program.executor)

    def read(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 (len(token_ids), d_model), which the next call overwrites."""
        n = len(token_ids)
        self._ids[:n] = token_ids
        self._n_tokens[0] = n
        self._program.run()
        return self._rows[:n]


def embedding_rows(model: Model, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """float32 (n, d_model): what an EmbeddingReader reads of these tokens."""
    return EmbeddingReader(model, len(token_ids)).read(token_ids)
