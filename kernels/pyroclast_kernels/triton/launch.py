"""How an op's Triton variant is called: with the reference's parameters, as tensors on the device.

A launch enqueues kernels and returns; it never waits, never looks at what a tensor holds, and
allocates nothing, so that a CUDA graph can capture it.  How much of each array is used is read by
the kernels (n_tokens and the like lie on the device); Limits bound it, to size the grids.

`on_host` wraps a launch as a variant on NumPy arrays, for tests, the kernel lab and rules such as
sample=triton.  Its copies to the device and back are part of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.weights.packing import PackedWeight

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Launch = Callable[..., None]  # (limits, **the reference's parameters)


@dataclass(frozen=True)
class Limits:
    """Upper bounds of a call.  n_tokens: tokens, or rows, of the call.  n_seqs: sequences of the
    step.  longest: positions of its longest sequence, new tokens included.  decode: every sequence
    of the step has a single new token.  tuned: tiles may be those that this GPU's table has."""

    n_tokens: int
    n_seqs: int = 1
    longest: int = 1
    decode: bool = True
    tuned: bool = False


def limits_of(arguments: dict[str, Any]) -> Limits:
    """Limits that fit a call's NumPy arguments exactly."""
    count = arguments.get("n_tokens", arguments.get("n_rows"))
    n_tokens = int(count[0]) if isinstance(count, np.ndarray) else 1
    positions, starts = arguments.get("positions"), arguments.get("seq_starts")
    longest = 1 if positions is None or not n_tokens else int(positions[:n_tokens].max()) + 1
    if starts is None:
        return Limits(n_tokens, longest=longest)
    n_seqs = int(arguments["n_seqs"][0])
    decode = bool((np.diff(starts[: n_seqs + 1]) <= 1).all())
    return Limits(n_tokens, n_seqs, longest, decode)


def host_tensor(array: Array) -> torch.Tensor:
    """A tensor on the array's own memory.  Records become bytes in a last axis of their own,
    uint16 becomes bfloat16 (what it holds wherever it occurs), uint32 becomes int32."""
    import torch

    if array.dtype.names:
        array = array.view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype == np.uint32:
        return torch.from_numpy(array.view(np.int32))
    return torch.from_numpy(array)


def on_device(host: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides; in the interpreter the tensor itself."""
    import torch

    device = triton_device.device()
    if device.type == "cpu":
        return host
    copy = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=device)
    return copy.copy_(host)


def on_host(launch: Launch) -> Callable[..., None]:
    """The launch as a function of NumPy arrays with the reference's parameters."""

    def run(**arguments: Any) -> None:
        import torch

        pairs = {}
        for name, value in arguments.items():
            if isinstance(value, np.ndarray):
                host = host_tensor(value)
                pairs[name] = host, on_device(host)
        given = {name: pairs[name][1] if name in pairs else v for name, v in arguments.items()}
        for name, value in arguments.items():
            if isinstance(value, PackedWeight):
                from pyroclast_kernels.triton.weights import of_packed

                given[name] = of_packed(value)
        with np.errstate(all="ignore"):  # the interpreter computes with NumPy
            launch(limits_of(arguments), **given)
        if triton_device.device().type == "cpu":
            return
        torch.cuda.synchronize()
        for host, copy in pairs.values():
            host.copy_(copy)

    return run
