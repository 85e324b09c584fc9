"""What one decoder layer is, as data: a family builds a tuple of these, the decoder reads it.

Sizes and constants come from files that may lie, so every spec checks itself: a ModelFileError
names the field, what it got, and what is allowed.  A spec may ask for what no kernel does yet;
`pyroclast.model.supported` refuses that before anything is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_number, check_positive, check_size
from pyroclast.families.experts import MAX_D_FF, ExpertsSpec
from pyroclast.families.recurrent import RecurrentSpec
from pyroclast.families.rope import RopeSpec

# Upper limits far above any published model; they keep a lying file from asking for absurd work
# (a cos/sin table of 2**60 rows) before its tensors have been compared with the file's size.
_MAX_HEADS = 4096
_MAX_HEAD_DIM = 4096
_MAX_WINDOW = 1 << 28
_MAX_OFFSET = 1e6
_MAX_TABLE = 1 << 24
_MAX_DEVIATIONS = 100.0
MAX_STREAMS = 8


@dataclass(frozen=True)
class NormSpec:
    """A norm over d_model (or over the heads of q and k).  kind "layer" subtracts the mean (Ba et
    al. 2016), "rms" does not.  weight_offset is added to the stored weights: some families store a
    weight of 1 as 0.  bias: a vector is added after the weights have multiplied."""

    eps: float
    kind: Literal["rms", "layer"] = "rms"
    weight_offset: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        check_positive("norm_eps", self.eps, largest=1)
        check_number("weight_offset of norms", self.weight_offset, -_MAX_OFFSET, _MAX_OFFSET)


@dataclass(frozen=True)
class TemperatureSpec:
    """Queries that grow with their position: rotated, they are multiplied by
    1 + beta * ln(1 + floor(position / length))."""

    beta: float
    length: int

    def __post_init__(self) -> None:
        check_positive("beta of the attention temperature", self.beta)
        check_size("length of the attention temperature", self.length, _MAX_WINDOW)


@dataclass(frozen=True)
class AttentionSpec:
    """Causal attention: head counts, positions, and what changes its scores.

    rope None: nothing is rotated.  window: a token sees itself and the window - 1 positions before
    it; None is all of them.  scale multiplies the scores, None is 1 / sqrt(head_dim); softcap
    bounds them by softcap * tanh(score / softcap).  qk_norm norms each head of q and of k before
    rotation; with qk_norm_whole it norms all heads of q as one vector, and all of k.  temperature
    makes later queries larger.  sinks: each head has a logit that takes probability and gives no
    value.  gate: a sigmoid of a product of x, as wide as q, multiplies the result.  v_norm: each
    head of v is normed as those of k, without weights.  keys_are_values: one product gives both, k
    before its norm.  cache_layer: the layer whose keys and values this one reads, None its own;
    then it has queries only.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope: RopeSpec | None
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    scale: float | None = None
    softcap: float | None = None
    qk_norm: NormSpec | None = None
    qk_norm_whole: bool = False
    temperature: TemperatureSpec | None = None
    sinks: bool = False
    gate: bool = False
    v_norm: bool = False
    keys_are_values: bool = False
    cache_layer: int | None = None

    def __post_init__(self) -> None:
        check_size("n_heads", self.n_heads, _MAX_HEADS)
        check_size("n_kv_heads", self.n_kv_heads, _MAX_HEADS)
        check_size("head_dim", self.head_dim, _MAX_HEAD_DIM)
        if self.n_heads % self.n_kv_heads:
            raise ModelFileError(
                f"n_heads must be a multiple of n_kv_heads {self.n_kv_heads}, got {self.n_heads}"
            )
        if self.window is not None:
            check_size("sliding_window", self.window, _MAX_WINDOW)
        for field in ("scale", "softcap"):
            if getattr(self, field) is not None:
                check_positive(f"attention {field}", getattr(self, field))
        if self.head_dim % 2:
            raise ModelFileError(f"head_dim must be even (rotary pairs), got {self.head_dim}")
        if self.rope is not None:
            self.rope.check_head_dim(self.head_dim)

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return 1 / math.sqrt(self.head_dim) if self.scale is None else float(self.scale)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The products of x, in the order in which their rows lie."""
        if self.cache_layer is not None:
            return ("wq",)
        return ("wq", "wk", "wk" if self.keys_are_values else "wv")

    @property
    def q_dim(self) -> int:
        """Values of all query heads of a token."""
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Values of all key heads of a token, and of all value heads."""
        return self.n_kv_heads * self.head_dim

    @property
    def qkv_dim(self) -> int:
        """Queries, keys and values of a token, side by side."""
        return self.q_dim + 2 * self.kv_dim


@dataclass(frozen=True)
class FeedForwardSpec:
    """w_down @ (activation(w_gate @ x) * (w_up @ x)); ungated, w_down @ activation(w_up @ x).
    bias: every product has one.  limit bounds the gate from above, and up to -limit..limit, before
    anything else; up_offset is then added to up.  experts: there are many such feed-forwards, each
    of width d_ff, and a token passes through some; of the shared expert, which is one more, only
    the width differs.  sparsity: of a token's gate only what lies so many standard deviations above
    its mean counts, less that (the op `sparse_gate`)."""

    d_ff: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False
    limit: float | None = None
    up_offset: float = 0.0
    experts: ExpertsSpec | None = None
    sparsity: float | None = None

    def __post_init__(self) -> None:
        check_size("d_ff", self.d_ff, MAX_D_FF)
        if self.sparsity is not None:
            check_number(
                "deviations of sparse gates", self.sparsity, -_MAX_DEVIATIONS, _MAX_DEVIATIONS
            )
        if self.limit is not None:
            check_positive("limit of gate and up", self.limit)
        check_number("offset of up", self.up_offset, -_MAX_OFFSET, _MAX_OFFSET)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The products of x, in the order in which their rows lie.  Those of experts have names
        that end in _experts."""
        return ("w_gate", "w_up") if self.gated else ("w_up",)

    @property
    def dense_d_ff(self) -> int:
        """The width of what every token passes through; 0 where there is no such thing."""
        return self.d_ff if self.experts is None else self.experts.shared_d_ff


@dataclass(frozen=True)
class LayerInputSpec:
    """What every layer is told of the token itself (per-layer embeddings): after its feed-forward,
    x += norm(w_input @ (activation(w_input_gate @ x) * input)).  The input has `width` values a
    layer: (e * sqrt(width) + norm(w_layer_inputs @ x0 / sqrt(d_model))) / sqrt(2), e being the
    token's row of a table of n_rows, and x0 the model's embedding of it, scaled.  n_stored: a
    folder has only so many of the rows, and for all others the first."""

    width: int
    n_rows: int
    activation: str
    n_stored: int | None = None

    def __post_init__(self) -> None:
        check_size("width of a layer's input", self.width, MAX_D_FF)
        check_size("rows of the table of layer inputs", self.n_rows, _MAX_TABLE)
        if self.n_stored is not None:
            check_size("stored rows of the table of layer inputs", self.n_stored, self.n_rows)


@dataclass(frozen=True)
class StreamsSpec:
    """Residual streams beside the one that layers change: alternating updates (AltUp, Baykal et al.
    2023).  A layer predicts all of them before it runs, and corrects them by what it changed (the
    ops `altup_predict` and `altup_correct`).  Its input of the token itself, if any, is gated by
    the first stream, times a vector with scales, and goes to the others.  The others begin as
    products of the embedding, and end as products added to the first; n counts them all."""

    n: int
    scales: bool = True

    def __post_init__(self) -> None:
        check_size("number of residual streams", self.n, MAX_STREAMS)
        if self.n < 2:
            raise ModelFileError(
                f"number of residual streams must be in 2..{MAX_STREAMS}, got {self.n}"
            )

    @property
    def others(self) -> range:
        """The numbers of all but the first."""
        return range(1, self.n)


@dataclass(frozen=True)
class LayerSpec:
    """One layer: x += mixer(norm(x)), then x += ffn(norm(x)).

    Either may be None; a layer with one part has one norm before it, called `norm`.  norm_before
    and norm_after say where the norms are: before the mixer and the feed-forward, after them, or
    both.  residual_scale multiplies what is added to x, after a norm that comes after.
    out_scale: the layer has a number of its own, which multiplies x at its end.  laurel_rank: with
    y = norm(x) before the mixer, x becomes (x + mixer(y) + y + norm(w_laurel_out @ w_laurel_in @
    y)) / sqrt(2), the products being of that rank (LAuReL, Menghani et al. 2024).
    """

    mixer: AttentionSpec | RecurrentSpec | None
    ffn: FeedForwardSpec | None
    norm: NormSpec
    norm_before: bool = True
    norm_after: bool = False
    residual_scale: float = 1.0
    out_scale: bool = False
    laurel_rank: int | None = None

    def __post_init__(self) -> None:
        check_positive("residual_scale", self.residual_scale)
        if self.laurel_rank is not None:
            check_size("laurel_rank", self.laurel_rank, MAX_D_FF)
        if self.mixer is None and self.ffn is None:
            raise ModelFileError("a layer needs a mixer or a feed-forward, got neither")

    @property
    def has_attention(self) -> bool:
        """Whether the mixer keeps keys and values."""
        return isinstance(self.mixer, AttentionSpec)

    @property
    def attention(self) -> AttentionSpec:
        """The mixer, which has to be attention."""
        assert isinstance(self.mixer, AttentionSpec), f"the mixer is {self.mixer}"
        return self.mixer

    @property
    def recurrent(self) -> RecurrentSpec | None:
        """The mixer, where it has a state in place of keys and values."""
        return None if isinstance(self.mixer, AttentionSpec) else self.mixer

    @property
    def experts(self) -> ExpertsSpec | None:
        """Those of the feed-forward, where it has some."""
        return None if self.ffn is None else self.ffn.experts

    def with_ffn(self, **changes: Any) -> LayerSpec:
        """The same layer, with these fields of its feed-forward changed."""
        assert self.ffn is not None
        return replace(self, ffn=replace(self.ffn, **changes))

    @property
    def norms(self) -> tuple[str, str]:
        """What the norms before the mixer and before the feed-forward are called."""
        is_alone = self.mixer is None or self.ffn is None
        return ("norm", "norm") if is_alone else ("attn_norm", "ffn_norm")
