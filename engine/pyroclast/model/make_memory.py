"""Where a model's arrays lie."""

from __future__ import annotations

from typing import Any

from pyroclast.model.load_plan import Plan
from pyroclast_kernels.memory import HostMemory, Memory


def make_memory(plan: Plan, executor: Any) -> Memory:
    """The memory of the plan's device.  On the host the executor's threads pack weights."""
    if plan.device == "cpu":
        return HostMemory(plan.selection, executor)
    from pyroclast_kernels.gpu.memory import DeviceMemory

    return DeviceMemory()
