"""Rows of the token embedding as float32, whatever format they are kept in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyroclast.model.calls import call_embed
from pyroclast.model.inspect import check_device
from pyroclast.model.model import Model
from pyroclast_kernels.program import Program, Recorder


def embedding_rows(model: Model, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """float32 (n, d_model): the vectors of these tokens as they are stored, without the scale that
    a family multiplies them by, on the threads of a step, of which none may run meanwhile.
    KernelError on a GPU."""
    check_device(model)
    program = model.program()
    call = next(call for call in program.calls if call.kernel.op == "embed")
    ids, n_tokens = np.array(token_ids, np.int32), np.array([len(token_ids)], np.int64)
    rows = np.zeros((len(ids), model.config.d_model), np.float32)
    recorder = Recorder(model.plan.selection)
    call_embed(recorder, call.arguments["weight"], ids, rows, n_tokens)
    Program(recorder.calls, program.executor).run()
    return rows
