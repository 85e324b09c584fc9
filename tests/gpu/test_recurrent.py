"""The ops of recurrent layers in Triton: the promises that the CPU's variants keep, too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pyroclast_kernels.batch import Batch
from pyroclast_kernels.conv1d.reference import conv1d
from pyroclast_kernels.gpu.memory import DeviceMemory
from pyroclast_kernels.gpu.program import DeviceProgram
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.selection import Selection
from recurrent_checks import CHECKS


@pytest.mark.parametrize(
    ("check", "op"), CHECKS, ids=lambda given: given if isinstance(given, str) else given.__name__
)
def test_recurrent(check: Callable[[str, str], None], op: str) -> None:
    check(op, "triton")


def test_an_op_that_counts_sequences_runs_in_a_step_without_logits() -> None:
    """It has no count of tokens, which tells other ops from those that take rows of logits."""
    memory, rng = DeviceMemory(), np.random.default_rng(3)
    batch = Batch(8, 2, 4, 2, memory)
    x, out = memory.inputs((8, 4), np.float32), memory.zeros((8, 4), np.float32)
    weight = rng.standard_normal((2, 4)).astype(np.float32)
    slots = memory.inputs((2,), np.int32), memory.inputs((8,), np.int32)
    sizes = {"n_channels": 4, "width": 2, "x_stride": 4, "kind": 0}
    recorder = Recorder(Selection("", on_gpu=True))
    recorder.call(
        "conv1d",
        n_seqs=batch.n_seqs_at,
        seq_starts=batch.seq_starts,
        slots_in=slots[0],
        slots_out=slots[1],
        x=x,
        weight=memory.constant(weight),
        bias=None,
        state=memory.zeros((1, 1, 4), np.float32),
        out=out,
        out_q8=None,
        **sizes,
    )
    batch.counts[:] = 3, 1, 0
    batch.positions[:3], batch.seq_starts[:2] = range(3), (0, 3)
    slots[0][0], slots[1][:3] = -1, (-1, -1, 0)
    x[:3] = rng.standard_normal((3, 4))
    DeviceProgram(recorder.calls, memory, batch, 100).run()
    state, want = np.zeros((1, 1, 4), np.float32), np.zeros((8, 4), np.float32)
    conv1d(batch.n_seqs_at, batch.seq_starts, *slots, x, weight, None, state, want, None, **sizes)
    np.testing.assert_allclose(memory.to_host(out, 3), want[:3], rtol=1e-5, atol=1e-6)
