"""Tensors of recurrent layers as GGUF files have them: decays in place of their logarithms, value
heads in turns of key heads, vectors as the matrices that ggml multiplies by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.convert.source import Bytes, SourceTensor
from pyroclast.checkpoint.tensor import Tensor
from pyroclast.errors import UnsupportedModelError
from pyroclast.families.recurrent import GatedDeltaSpec, Mamba2Spec, RecurrentSpec
from pyroclast_kernels.weights import formats

Order = npt.NDArray[np.intp]

# Weights that are no products: small, and stored in float32.
_SMALL = (
    "conv", "conv_bias", "dt_bias", "decay", "skip", "delta_norm", "ssm_norm",
)  # fmt: skip
_BY_VALUE_HEAD = ("w_delta_z", "w_delta_b", "w_delta_a", "decay", "dt_bias")


def is_state(weight: str) -> bool:
    """Whether `state_tensor` writes a weight of a recurrent mixer."""
    return weight in _SMALL


def state_tensor(
    name: str, tensor: Tensor, weight: str, mixer: RecurrentSpec, found: RecurrentSpec
) -> SourceTensor:
    """A weight of a mixer that is no product, under its name in the file; found is the mixer as the
    file's reader sees it."""
    values = tensor.float32()
    if (order := row_order(weight, mixer, found)) is not None:
        values = values[order]
    if weight == "decay" and _has_log(mixer) and not _has_log(found):
        values = -np.exp(values)  # as a folder's is loaded
    shape = values.shape
    if isinstance(mixer, Mamba2Spec) and weight in ("decay", "skip"):
        shape = (mixer.n_heads, 1)
    if isinstance(mixer, Mamba2Spec) and weight == "ssm_norm":
        shape = (mixer.n_groups, mixer.norm_width)
    rows = np.ascontiguousarray(values).reshape(-1, shape[-1]).view(np.uint8)
    return SourceTensor(name, shape, "f32", lambda first, last: rows[first:last])


def _has_log(mixer: RecurrentSpec) -> bool:
    return isinstance(mixer, GatedDeltaSpec | Mamba2Spec) and mixer.log_decay


def row_order(
    weight: str, mixer: RecurrentSpec | None, found: RecurrentSpec | None
) -> Order | None:
    """Which row of ours each row of the file is; None where they lie alike."""
    if (heads := _value_heads(mixer, found)) is None or not isinstance(mixer, GatedDeltaSpec):
        return None
    if weight in ("w_delta_qkv", "conv"):
        values = _of_heads(heads, mixer.v_head_dim) + 2 * mixer.key_dim
        return np.concatenate([np.arange(2 * mixer.key_dim), values])
    if weight not in _BY_VALUE_HEAD:
        return None
    return _of_heads(heads, mixer.v_head_dim if weight == "w_delta_z" else 1)


def column_order(
    weight: str, mixer: RecurrentSpec | None, found: RecurrentSpec | None
) -> Order | None:
    """Which column of ours each column of the file is; None where they lie alike."""
    heads = _value_heads(mixer, found) if weight == "w_delta_out" else None
    if heads is None or not isinstance(mixer, GatedDeltaSpec):
        return None
    return _of_heads(heads, mixer.v_head_dim)


def _value_heads(mixer: RecurrentSpec | None, found: RecurrentSpec | None) -> Order | None:
    """Which value head of ours each one of the file is: the first of every key head, then the
    second of every one, ..., as ggml repeats key heads."""
    if not isinstance(mixer, GatedDeltaSpec) or not isinstance(found, GatedDeltaSpec):
        return None
    if mixer.tiled == found.tiled or mixer.n_k_heads in (1, mixer.n_v_heads):
        return None
    assert found.tiled, "folders have the value heads of a key head side by side"
    return np.arange(mixer.n_v_heads).reshape(mixer.n_k_heads, -1).T.reshape(-1)


def _of_heads(heads: Order, size: int) -> Order:
    """The order of values of so many each."""
    return (heads[:, None] * size + np.arange(size)).reshape(-1)


def with_columns(rows: Bytes, order: Order, tensor: Tensor) -> Bytes:
    """Rows of the tensor with their columns in that order."""
    if formats.FORMATS[tensor.format].block_columns > 1:
        raise UnsupportedModelError(
            f"{tensor.source_name!r} is in {tensor.format}, whose blocks of columns cannot be put "
            "in the order of a GGUF file; store it in bf16, f16 or f32"
        )
    n_rows, n_bytes = rows.shape
    values = rows.reshape(n_rows, len(order), n_bytes // len(order))
    return np.ascontiguousarray(values[:, order]).reshape(n_rows, n_bytes)
