"""Where a NaN or an infinity first appears in a step."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Program

# What ops write that have no `out`: these arrays, in place.
_WRITTEN = {
    "rope": ("qkv",), "qk_norm": ("qkv",), "l2_norm": ("qkv",), "residual": ("x",),
    "sigmoid_gate": ("x",), "scale_logits": ("logits",), "match_rms": ("y",),
    "sparse_gate": ("gate_up",),
}  # fmt: skip
_OF_PAIRS = ("expert_gate_up", "expert_down")  # with a row for each expert of a token


def first_non_finite(program: Program, memory: Memory, batch: Batch) -> str:
    """Runs the step in the batch once more, call by call; "layer 3 (matmul)", say, or empty where
    all is finite."""
    for i, call in enumerate(program.calls):
        program.run_one(i)
        n_rows = int(call.arguments.get("n_tokens", batch.n_tokens_at)[0])
        if call.kernel.op in _OF_PAIRS:
            n_rows *= call.arguments["n_active"]
        for name in _WRITTEN.get(call.kernel.op, ("out", "out_q8")):
            array = call.arguments.get(name)
            if array is None:
                continue
            found = memory.to_host(array, n_rows)
            if not np.isfinite(found["scale"] if name == "out_q8" else found).all():
                return f"{call.label} ({call.kernel.op})"
    return ""
