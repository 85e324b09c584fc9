"""What a model file says of its model: one value of each kind, for all layers.

A family (`family.Family`) makes a ModelConfig of it, with a spec for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroclast.families.checks import check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import LayerSpec, NormSpec
from pyroclast.families.rope import RopeScaling, RopeSpec

_MAX_LAYERS = 4096


@dataclass(frozen=True)
class Hyperparameters:
    """Values as a file has them, under our names.  Only n_layers is checked here, because a family
    makes that many specs; the specs and the ModelConfig check the rest.

    rope_freq_factors are the divisors of the rotary frequencies that a GGUF may carry
    (`rope_freqs.weight`), head_dim / 2 of them.  extra has what only one family's tables name.
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
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    rope_freq_factors: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_size("n_layers", self.n_layers, _MAX_LAYERS)

    @property
    def rope(self) -> RopeSpec:
        """Rotary positions in all dimensions of a head."""
        return RopeSpec(self.rope_theta, self.rope_scaling, self.rope_freq_factors)

    def config(self, layers: tuple[LayerSpec, ...]) -> ModelConfig:
        """The model of these layers."""
        return ModelConfig(
            family=self.family,
            layers=layers,
            output_norm=NormSpec(self.norm_eps),
            d_model=self.d_model,
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
            tie_embeddings=self.tie_embeddings,
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
        )
