"""What families with Mamba 2 layers share: names of tensors and sizes, and the mixer they make."""

from __future__ import annotations

import math
from typing import Any

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_size
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.recurrent import Mamba2Spec

GGUF_TENSORS = {
    "layers.{i}.w_ssm_in": "blk.{i}.ssm_in.weight",
    "layers.{i}.conv": "blk.{i}.ssm_conv1d.weight",
    "layers.{i}.conv_bias": "blk.{i}.ssm_conv1d.bias",
    "layers.{i}.dt_bias": "blk.{i}.ssm_dt.bias",
    "layers.{i}.decay": "blk.{i}.ssm_a",
    "layers.{i}.skip": "blk.{i}.ssm_d",
    "layers.{i}.ssm_norm": "blk.{i}.ssm_norm.weight",
    "layers.{i}.w_ssm_out": "blk.{i}.ssm_out.weight",
}
# GGUF files have (n_heads, 1), and (n_groups, values of a group), where we have a vector.
GGUF_FLAT = frozenset({"decay", "skip", "ssm_norm"})
GGUF_KEYS = {
    "conv_width": "ssm.conv_kernel",
    "d_state": "ssm.state_size",
    "n_ssm_groups": "ssm.group_count",
    "n_ssm_heads": "ssm.time_step_rank",
    "ssm_dim": "ssm.inner_size",
}
_MAX_DIM = 1 << 30  # checked more strictly by the spec
_INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it


def hf_tensors(mixer: str) -> dict[str, str]:
    """Of a folder that calls the mixer of layer {i} so: "model.layers.{i}.mamba."."""
    return {
        "layers.{i}.w_ssm_in": mixer + "in_proj.weight",
        "layers.{i}.conv": mixer + "conv1d.weight",
        "layers.{i}.conv_bias": mixer + "conv1d.bias",
        "layers.{i}.dt_bias": mixer + "dt_bias",
        "layers.{i}.decay": mixer + "A_log",
        "layers.{i}.skip": mixer + "D",
        "layers.{i}.ssm_norm": mixer + "norm.weight",
        "layers.{i}.w_ssm_out": mixer + "out_proj.weight",
    }


def mixer_of(h: Hyperparameters) -> Mamba2Spec:
    """The mixer that a file's sizes describe.  ssm_dim is the size of all heads; with
    ssm_head_dim, or without it, the other follows."""
    n_heads, extra = h.extra.get("n_ssm_heads"), h.extra
    dt_min, dt_max = _step_limits(extra.get("dt_limits"))
    return Mamba2Spec(
        n_heads=n_heads,  # type: ignore[arg-type]  # the spec checks it
        head_dim=_head_dim(n_heads, extra.get("ssm_head_dim", "auto"), extra.get("ssm_dim")),
        n_groups=extra.get("n_ssm_groups"),  # type: ignore[arg-type]
        d_state=extra.get("d_state"),  # type: ignore[arg-type]
        kernel=extra.get("conv_width", 4),
        norm_eps=h.norm_eps,
        conv_bias=h.flag("conv_bias", True),
        dt_min=dt_min,
        dt_max=dt_max,
        log_decay=h.flag("log_decay", True),
    )


def _head_dim(n_heads: Any, head_dim: Any, dim: Any) -> Any:
    """The size of a head; ModelFileError where it and the size of all heads do not agree."""
    if dim is None:
        return head_dim
    check_size("heads of Mamba 2", n_heads, _MAX_DIM)
    check_size("values of Mamba 2", dim, _MAX_DIM)
    if dim % n_heads:
        raise ModelFileError(
            f"values of Mamba 2 must be a multiple of its {n_heads} heads, got {dim}"
        )
    if head_dim not in ("auto", dim // n_heads):
        raise ModelFileError(
            f"{n_heads} heads of Mamba 2 that hold {dim} values must have a size of "
            f"{dim // n_heads}, got {head_dim!r}"
        )
    return dim // n_heads


def _step_limits(listed: Any) -> tuple[Any, Any]:
    """The smallest and the largest step; the spec checks that they are numbers."""
    if listed is None:
        return 0.0, math.inf
    if not isinstance(listed, list) or len(listed) != 2:
        raise ModelFileError(f"time_step_limit must be a list of two numbers, got {listed!r:.100}")
    low, high = (math.inf if each == _INFINITY else each for each in listed)
    return low, high
