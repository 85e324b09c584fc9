"""What each call of a step takes."""

from __future__ import annotations

from pyroclast_kernels.program import Program


def step_times(program: Program, *, on_gpu: bool) -> list[tuple[str, str, str, float]]:
    """Runs one step; (label, op.format, variant, microseconds) of each call, in order."""
    if on_gpu:
        from pyroclast_kernels.gpu.program import DeviceProgram

        assert isinstance(program, DeviceProgram), "there is no third one"
        times_us = program.profile()
    else:
        from pyroclast_kernels import timeline

        times_us = timeline.profile(program)
    return [
        (c.label, f"{c.kernel.op}.{c.kernel.format}", c.kernel.variant, microseconds)
        for c, microseconds in zip(program.calls, times_us, strict=True)
    ]
