"""Calls one variant of `softmax` on given logits, for tests and benchmarks."""

from __future__ import annotations

from typing import Any

from pyroclast.lab.speed.sample_call import C_KERNEL
from pyroclast_kernels.program import pack_arguments
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.softmax import cases


class SoftmaxCall:
    """One prepared call: `run()` as often as you like.  Options: those of cases.arguments_of."""

    def __init__(self, variant: str, logits: Any, **options: Any) -> None:
        self.kernel = Selection(f"softmax={variant}").kernel("softmax")
        self.arguments = cases.arguments_of(logits, **options)
        if not self.kernel.function:
            self._function = C_KERNEL(self.kernel.address)
            self._slots = pack_arguments(self.kernel, self.arguments)
            self._address = self._slots.ctypes.data

    def run(self) -> Any:
        """float32 (n_rows, n_cols)."""
        if self.kernel.function:
            self.kernel.function(**self.arguments)
        else:
            self._function(self._address, 0, 1)
        return self.arguments["out"][:, : self.arguments["n_cols"]]


def run_softmax(variant: str, logits: Any, **options: Any) -> Any:
    """One call; logits float32 (n_rows, n_cols) -> the same shape."""
    return SoftmaxCall(variant, logits, **options).run()
