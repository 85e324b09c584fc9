"""A number that multiplies a whole weight: `blk.0.attn_q.scale` beside `blk.0.attn_q.weight`, as
llama.cpp's converter writes it for NVFP4.  A tensor of such a name that a family's table has, as
Gemma 4's `blk.0.ffn_down_exps.scale`, is a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.checkpoint.tensor import Bytes, QuantizedRows, RowSource, Tensor
from pyroclast.errors import ModelFileError

# These hold a scaled value as well as any other.
_UNQUANTIZED = ("f32", "f16", "bf16")


def scale_key(key: str) -> str | None:
    """The name of the scale of a tensor; None if it is no weight."""
    return f"{key.removesuffix('.weight')}.scale" if key.endswith(".weight") else None


def scaled(tensor: Tensor, scale: StoredTensor) -> Tensor:
    """The weight times the number, in float16 unless its values are stored as they are."""
    if scale.format != "f32" or scale.shape != (1,):
        raise ModelFileError(
            f"tensor {scale.name!r} must be one number in F32, got shape {scale.shape} in "
            f"{scale.type_name}"
        )
    if scale.offset + 4 > scale.file.size:
        source: RowSource = _Unscalable(scale)
        factor = 1.0
    else:
        source, factor = tensor.source, _factor(scale)
    target = tensor.format if tensor.format in _UNQUANTIZED else "f16"
    return replace(
        tensor,
        format=target,
        source=QuantizedRows(source, tensor.format, target, factor),
        stored_format=None if target == tensor.format else tensor.format,
    )


def _factor(scale: StoredTensor) -> float:
    raw = scale.file.read(scale.offset, 4, f"tensor {scale.name!r}")
    factor = float(np.frombuffer(raw, "<f4")[0])
    if not np.isfinite(factor):
        raise ModelFileError(f"tensor {scale.name!r} must be a finite number, got {factor}")
    return factor


@dataclass(frozen=True)
class _Unscalable:
    """Rows of a weight whose scale the file was cut short of: they cannot be read."""

    scale: StoredTensor
    at_once = False

    def rows(self, *_: object, **__: object) -> Bytes:
        """Raises ModelFileError."""
        raise ModelFileError(
            f"tensor {self.scale.name!r}, which multiplies a weight, was cut off: the file ends at "
            f"{self.scale.file.size}"
        )
