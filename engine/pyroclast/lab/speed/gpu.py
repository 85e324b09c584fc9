"""Times and ceilings of kernels that run on a GPU.

A variant with a launch is timed on tensors that are on the device.  "Cold" is one launch after the
L2 was flushed, "warm" a CUDA graph of many launches (pyroclast_kernels.gpu.timing).  In Triton's
interpreter it is checked and not timed.  A user's own variant takes NumPy arrays and copies them
itself, so it counts as a Python function.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pyroclast.lab.check.inputs import Arguments, copy_of
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast.lab.speed.timing import Timing
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton.device import INTERPRETED

if TYPE_CHECKING:
    from pyroclast_kernels.registry import Variant

NOT_TIMED = "right; not timed, because Triton's interpreter is not a GPU"


def launched(op: str, variant: str) -> Variant | None:
    """The variant if it is launched on a GPU, else None."""
    found = all_variants(op).get(variant)
    return found if found is not None and found.launch is not None else None


def timed(pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether one of these pairs (op, variant) will be timed on a GPU here."""
    found = (launched(op, variant) for op, variant in pairs)
    return not INTERPRETED and any(each and not each.unavailable for each in found)


def about() -> dict[str, Any]:
    """The name, ISA and sizes of the device."""
    found: dict[str, Any] = _module("triton.ceiling").about()
    return found


def times(
    launch: Callable[..., None], arguments: Arguments, seconds: float
) -> dict[str, Timing] | None:
    """Cold and warm times of a launch; None in the interpreter."""
    if INTERPRETED:
        return None
    timing = _module("gpu.timing")
    call = timing.call_of(launch, copy_of(arguments))
    cold = _timing(timing.cold(call, seconds))
    return {"cold": cold, "warm": _timing(timing.replayed(call, cold.median_us, seconds))}


def _timing(found: Any) -> Timing:
    return Timing(found.samples_us, found.n_runs)


def ceilings() -> list[MeasuredCeiling]:
    """The ceilings of the device: a copy in its memory, and a large BF16 product."""
    found = _module("triton.ceiling").measure()
    return [
        MeasuredCeiling(each["kind"], 0, each["value"], each["unit"], each["n_bytes"], each["how"])
        for each in found
    ]


def roofline(
    seconds: float, n_flops: int, n_bytes: int, ceilings: Sequence[MeasuredCeiling], cache: str
) -> tuple[float | None, str]:
    """(share, limit), as machine.roofline.  A replayed call may find its tensors in the L2, whose
    rate is not measured, so only arithmetic limits it."""
    rates = {ceiling.kind: ceiling.value for ceiling in ceilings}
    work = {"matmul": n_flops, "copy": n_bytes if cache == "cold" else 0}
    least = {kind: n / rates[kind] / 1e9 for kind, n in work.items() if n and rates.get(kind)}
    if not least:
        return None, ""
    limit = max(least, key=lambda kind: least[kind])
    return least[limit] / seconds, limit


def _module(name: str) -> Any:
    """Imports late and by name, because this brings in torch."""
    return importlib.import_module(f"pyroclast_kernels.{name}")
