"""Calls one variant of `sample` on given logits, for tests and benchmarks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pyroclast_kernels.program import pack_arguments
from pyroclast_kernels.sample import cases
from pyroclast_kernels.selection import Kernel, Selection, all_variants

C_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


class SampleResult(NamedTuple):
    """What the op wrote: OUT (n_rows,), and the most likely tokens (n_rows, max_top)."""

    out: Any
    top_ids: Any
    top_logprobs: Any


def usable_variants(op: str) -> list[str]:
    """The variants that run on this machine."""
    return [v.name for v in all_variants(op).values() if not v.unavailable]


class SampleCall:
    """A prepared call of `sample`, which may run any number of times; its results are in `out`."""

    def __init__(
        self,
        variant: str,
        logits: Any,
        rows: Any,
        *,
        penalties: Any = (),
        biases: Any = (),
        allowed: Any = (),
        max_top: int = 8,
        n_parts: int = 1,
    ) -> None:
        self.kernel: Kernel = Selection(f"sample={variant}").kernel("sample")
        self.arguments = cases.arguments_of(
            logits,
            rows,
            penalties=penalties,
            biases=biases,
            allowed=allowed,
            max_top=max_top,
            max_parts=n_parts,
        )
        self.arguments["scratch"][:] = 0xAB  # results may not depend on what scratch memory holds
        self.out = self.arguments["out"]
        self.n_parts = n_parts
        self._bind()

    def _bind(self) -> None:
        if not self.kernel.function:
            self._function = C_KERNEL(self.kernel.address)
            self.slots = pack_arguments(self.kernel, self.arguments)
            self._address = self.slots.ctypes.data

    def grow_scratch(self, n_bytes: int) -> Any:
        """Each part's scratch memory, longer by n_bytes; all of it is 0xAB."""
        stride = self.arguments["scratch_stride"] + n_bytes
        raw = np.full(self.n_parts * stride + 64, 0xAB, np.uint8)
        start = -raw.ctypes.data % 64
        scratch = raw[start : start + self.n_parts * stride].reshape(self.n_parts, stride)
        self.arguments |= {"scratch": scratch, "scratch_stride": stride}
        self._bind()
        return scratch

    def prepared(self) -> Callable[[], Any]:
        """The bare call of a native kernel in one part, without what `run` adds in Python."""
        if self.kernel.function or self.n_parts != 1:
            return self.run
        bare: Any = partial(self._function, self._address, 0, 1)
        bare.call = self  # the owner of the arrays that the address leads to
        found: Callable[[], Any] = bare
        return found

    def run(self) -> SampleResult:
        """All parts, one after the other, the last first: their order must not matter."""
        if self.kernel.function:
            self.kernel.function(**self.arguments)
        else:
            for part in reversed(range(self.n_parts)):
                self._function(self._address, part, self.n_parts)
        return SampleResult(self.out, self.arguments["top_ids"], self.arguments["top_logprobs"])


def run_sample(variant: str, logits: Any, rows: Any, **inputs: Any) -> SampleResult:
    """One call; logits float32 (n_rows, vocab_size), rows ROW (n_rows,)."""
    return SampleCall(variant, logits, rows, **inputs).run()
