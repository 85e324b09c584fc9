"""A number that multiplies a whole weight: `blk.0.attn_q.scale` beside `blk.0.attn_q.weight`, as
llama.cpp's converter writes it for NVFP4."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.checkpoint.tensor import QuantizedRows, Tensor
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
    factor = float(
        np.frombuffer(scale.file.read(scale.offset, 4, f"tensor {scale.name!r}"), "<f4")[0]
    )
    if not np.isfinite(factor):
        raise ModelFileError(f"tensor {scale.name!r} must be a finite number, got {factor}")
    target = tensor.format if tensor.format in _UNQUANTIZED else "f16"
    return replace(
        tensor,
        format=target,
        source=QuantizedRows(tensor.source, tensor.format, target, factor),
        stored_format=None if target == tensor.format else tensor.format,
    )
