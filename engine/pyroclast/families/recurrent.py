"""Mixers with a state of a fixed size, as data: short convolutions and the gated delta rule.

Each spec says which weights a layer has; `pyroclast.model.state_cache` says what it keeps for a
text.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_positive, check_size

# Upper limits far above any published model; see layer_spec.
_MAX_KERNEL = 64
_MAX_HEADS = 1024
_MAX_HEAD_DIM = 1024
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


RecurrentSpec = ShortConvSpec | GatedDeltaSpec
