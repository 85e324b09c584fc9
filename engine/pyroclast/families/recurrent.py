"""Mixers with a state of a fixed size, as data: short convolutions, the gated delta rule and the
state space model of Mamba 2.

Each spec says which weights a layer has; `pyroclast.model.state_cache` says what it keeps for a
text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_flag, check_number, check_positive, check_size

# Upper limits far above any published model; see layer_spec.
_MAX_KERNEL = 64
_MAX_HEADS = 1024
_MAX_HEAD_DIM = 1024
_MAX_STATE = 4096
_MAX_STEP = 1e30
_MAX_CHANNELS = 1 << 20

Shape = tuple[int, ...]


def _check_kernel(kernel: object) -> None:
    check_size("width of the convolution", kernel, _MAX_KERNEL)
    if kernel == 1:
        raise ModelFileError("width of the convolution must be at least 2, got 1")


@dataclass(frozen=True)
class ShortConvSpec:
    """w_conv_out @ (c * conv(b * x)), b, c and x being products of the input (LFM2).  The
    convolution is causal, over `kernel` positions of each of n_channels by itself."""

    n_channels: int
    kernel: int

    kind = "short_conv"
    output = "w_conv_out"

    def __post_init__(self) -> None:
        check_size("channels of the convolution", self.n_channels, _MAX_CHANNELS)
        _check_kernel(self.kernel)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The products of x, in the order in which their rows lie."""
        return ("w_conv_in",)

    @property
    def width(self) -> int:
        """Values that the products of x give for a token."""
        return 3 * self.n_channels

    @property
    def out_width(self) -> int:
        """Values that the last product reads."""
        return self.n_channels

    def shapes(self, d_model: int) -> dict[str, Shape]:
        """The weights of a layer."""
        return {
            "w_conv_in": (self.width, d_model),
            "conv": (self.n_channels, self.kernel),
            "w_conv_out": (d_model, self.n_channels),
        }


@dataclass(frozen=True)
class GatedDeltaSpec:
    """The gated delta rule (Yang et al. 2025) behind a convolution of q, k and v (Qwen3.5): each
    value head has a matrix that decays, and learns to give v for k.

    Value head h reads key head h // (n_v_heads / n_k_heads); with `tiled` heads, as GGUF files
    order them, h % n_k_heads.  norm_eps is of the norm of each head that z gates.  log_decay: the
    file has ln(-a), not a.
    """

    n_k_heads: int
    n_v_heads: int
    k_head_dim: int
    v_head_dim: int
    kernel: int
    norm_eps: float
    tiled: bool = False
    log_decay: bool = True

    kind = "gated_delta"
    output = "w_delta_out"

    def __post_init__(self) -> None:
        check_size("key heads of linear attention", self.n_k_heads, _MAX_HEADS)
        check_size("value heads of linear attention", self.n_v_heads, _MAX_HEADS)
        check_size("key head size of linear attention", self.k_head_dim, _MAX_HEAD_DIM)
        check_size("value head size of linear attention", self.v_head_dim, _MAX_HEAD_DIM)
        check_positive("norm_eps of linear attention", self.norm_eps, largest=1)
        _check_kernel(self.kernel)
        if self.n_v_heads % self.n_k_heads:
            raise ModelFileError(
                f"value heads of linear attention must be a multiple of its {self.n_k_heads} key "
                f"heads, got {self.n_v_heads}"
            )

    @property
    def key_dim(self) -> int:
        """Values of all key heads of a token."""
        return self.n_k_heads * self.k_head_dim

    @property
    def value_dim(self) -> int:
        """Values of all value heads of a token."""
        return self.n_v_heads * self.v_head_dim

    @property
    def n_channels(self) -> int:
        """Channels of the convolution: q, k and v."""
        return 2 * self.key_dim + self.value_dim

    @property
    def inputs(self) -> tuple[str, ...]:
        """The products of x, in the order in which their rows lie."""
        return ("w_delta_qkv", "w_delta_z", "w_delta_b", "w_delta_a")

    @property
    def width(self) -> int:
        """Values that the products of x give for a token."""
        return self.n_channels + self.value_dim + 2 * self.n_v_heads

    @property
    def out_width(self) -> int:
        """Values that the last product reads."""
        return self.value_dim

    def shapes(self, d_model: int) -> dict[str, Shape]:
        """The weights of a layer."""
        return {
            "w_delta_qkv": (self.n_channels, d_model),
            "w_delta_z": (self.value_dim, d_model),
            "w_delta_b": (self.n_v_heads, d_model),
            "w_delta_a": (self.n_v_heads, d_model),
            "conv": (self.n_channels, self.kernel),
            "dt_bias": (self.n_v_heads,),
            "decay": (self.n_v_heads,),
            "delta_norm": (self.v_head_dim,),
            "w_delta_out": (d_model, self.value_dim),
        }


@dataclass(frozen=True)
class Mamba2Spec:
    """The state space model of Mamba 2 (Dao and Gu 2024) behind a convolution of x, B and C: each
    head has a matrix (d_state, head_dim) that decays by a step of its own, and n_groups of heads
    share B and C.

    One product of the input has the rows z, x, B, C and the steps.  silu(z) multiplies the result
    before a norm of each of the n_groups of values.  Steps are held in [dt_min, dt_max].
    log_decay: the file has ln(-a), not a.  conv_bias: the convolution adds a bias.
    """

    n_heads: int
    head_dim: int
    n_groups: int
    d_state: int
    kernel: int
    norm_eps: float
    conv_bias: bool = True
    dt_min: float = 0.0
    dt_max: float = math.inf
    log_decay: bool = True

    kind = "mamba2"
    output = "w_ssm_out"

    def __post_init__(self) -> None:
        check_size("heads of Mamba 2", self.n_heads, _MAX_HEADS)
        check_size("head size of Mamba 2", self.head_dim, _MAX_HEAD_DIM)
        check_size("groups of Mamba 2", self.n_groups, self.n_heads)
        check_size("state size of Mamba 2", self.d_state, _MAX_STATE)
        check_size("channels of the convolution", self.n_channels, _MAX_CHANNELS)
        check_positive("norm_eps of Mamba 2", self.norm_eps, largest=1)
        check_flag("bias of the convolution", self.conv_bias)
        check_number("smallest step of Mamba 2", self.dt_min, 0, _MAX_STEP)
        if self.dt_max != math.inf:
            check_number("largest step of Mamba 2", self.dt_max, self.dt_min, _MAX_STEP)
        _check_kernel(self.kernel)
        if self.n_heads % self.n_groups:
            raise ModelFileError(
                f"heads of Mamba 2 must be a multiple of its {self.n_groups} groups, "
                f"got {self.n_heads}"
            )

    @property
    def value_dim(self) -> int:
        """Values of all heads of a token."""
        return self.n_heads * self.head_dim

    @property
    def norm_width(self) -> int:
        """Values that are normed together."""
        return self.value_dim // self.n_groups

    @property
    def n_channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.value_dim + 2 * self.n_groups * self.d_state

    @property
    def inputs(self) -> tuple[str, ...]:
        """The product of x, whose rows are z, the channels of the convolution and the steps."""
        return ("w_ssm_in",)

    @property
    def width(self) -> int:
        """Values that the product of x gives for a token."""
        return self.value_dim + self.n_channels + self.n_heads

    @property
    def out_width(self) -> int:
        """Values that the last product reads."""
        return self.value_dim

    def shapes(self, d_model: int) -> dict[str, Shape]:
        """The weights of a layer."""
        return {
            "w_ssm_in": (self.width, d_model),
            "conv": (self.n_channels, self.kernel),
            **({"conv_bias": (self.n_channels,)} if self.conv_bias else {}),
            "dt_bias": (self.n_heads,),
            "decay": (self.n_heads,),
            "skip": (self.n_heads,),
            "ssm_norm": (self.value_dim,),
            "w_ssm_out": (d_model, self.value_dim),
        }


RecurrentSpec = ShortConvSpec | GatedDeltaSpec | Mamba2Spec
