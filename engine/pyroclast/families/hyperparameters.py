"""What a model file says of its model: one value of each kind, for all layers.

A family (`family.Family`) makes a ModelConfig of it, with a spec for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_positive, check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import LayerSpec, NormSpec
from pyroclast.families.rope import RopeScaling, RopeSpec

_MAX_LAYERS = 4096
# Sizes that families compute with before a spec checks them more strictly.
_COMPUTED_WITH, _MAX_SIZE = ("n_heads", "n_kv_heads", "head_dim", "d_model"), 1 << 20


@dataclass(frozen=True)
class Hyperparameters:
    """Values as a file has them, under our names.  Only n_layers, and what has one value a layer,
    are checked here; the specs and the ModelConfig check the rest.

    norm_offset is what the family adds to a stored norm weight in this file format.  windowed says
    of each layer whether it sees sliding_window positions only; None is what the family does by
    itself; recurrent, whether it has a state in place of attention.  rope_freq_factors are the
    divisors of the rotary frequencies that a GGUF may carry (`rope_freqs.weight`).  rotary_dim None
    rotates all of a head.  window_rope_theta and window_rope_scaling are for the windowed layers of
    families with two bases; None is rope_theta.
    of_layers: fields that have a value for each layer, where these are not all the same.
    extra has what only one family's tables name; read it with `positive`, `optional`,
    `size` and `flag`.
    """

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_model: int
    d_ff: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False
    activation: str = "silu"
    norm_offset: float = 0.0
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    window_rope_theta: float | None = None
    window_rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    windowed: tuple[bool, ...] | None = None
    recurrent: tuple[bool, ...] | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    rope_freq_factors: tuple[float, ...] | None = None
    of_layers: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_size("n_layers", self.n_layers, _MAX_LAYERS)
        for name in _COMPUTED_WITH:
            check_size(name, getattr(self, name), _MAX_SIZE)
        for name, what in (("windowed", "have a window"), ("recurrent", "are recurrent")):
            each = getattr(self, name)
            if each is not None and len(each) != self.n_layers:
                raise ModelFileError(
                    f"the file says of {len(each)} layers whether they {what}, and that there are "
                    f"{self.n_layers}"
                )
        for name, values in self.of_layers.items():
            if len(values) != self.n_layers:
                raise ModelFileError(
                    f"the file has {name} of {len(values)} layers, and says that there are "
                    f"{self.n_layers}"
                )

    @property
    def rope(self) -> RopeSpec:
        """Rotary positions, as in layers that see everything."""
        return RopeSpec(self.rope_theta, self.rope_scaling, self.rope_freq_factors, self.rotary_dim)

    @property
    def window_rope(self) -> RopeSpec:
        """Rotary positions of windowed layers, in families that have two bases."""
        theta = self.rope_theta if self.window_rope_theta is None else self.window_rope_theta
        return RopeSpec(theta, self.window_rope_scaling, None, self.rotary_dim)

    def window_of(self, layer: int) -> int | None:
        """How many positions that layer sees; None for all."""
        return self.sliding_window if self.windowed is None or self.windowed[layer] else None

    def of_layer(self, name: str, layer: int) -> Any:
        """That field, of that layer."""
        return self.of_layers[name][layer] if name in self.of_layers else getattr(self, name)

    def positive(self, name: str, default: float) -> float:
        """A positive number of `extra`, or the default."""
        value = self.extra.get(name)
        if value is None:
            return default
        check_positive(name, value)
        return float(value)

    def optional(self, name: str) -> float | None:
        """A positive number of `extra`, or None."""
        return self.positive(name, 0.0) or None

    def size(self, name: str, default: int) -> int:
        """A whole number >= 1 of `extra`, or the default."""
        value = self.extra.get(name)
        if value is None:
            return default
        check_size(name, value, _MAX_LAYERS)
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value of `extra`, or the default."""
        value = self.extra.get(name)
        if value is not None and not isinstance(value, bool):
            raise ModelFileError(f"{name} must be true or false, got {value!r}")
        return default if value is None else value

    def config(self, layers: Iterable[LayerSpec], **changes: Any) -> ModelConfig:
        """The model of these layers; changes are fields of ModelConfig that the family sets."""
        values: dict[str, Any] = {
            "output_norm": NormSpec(self.norm_eps, weight_offset=self.norm_offset)
        }
        return ModelConfig(
            family=self.family,
            layers=tuple(layers),
            d_model=self.d_model,
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
            tie_embeddings=self.tie_embeddings,
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
            **(values | changes),
        )
