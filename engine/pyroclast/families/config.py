"""What the forward pass must know of a model: its layers, vocabulary, and special token ids.

A ModelConfig checks itself when it is made, because its numbers come from files that may lie:
every error is a ModelFileError that names the field, what it got, and what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_positive, check_size
from pyroclast.families.layer_spec import (
    AttentionSpec,
    LayerInputSpec,
    LayerSpec,
    NormSpec,
    StreamsSpec,
)

_LIMITS = {"d_model": 1 << 20, "vocab_size": 1 << 24, "max_seq_len": 1 << 28}


@dataclass(frozen=True)
class ModelConfig:
    """One decoder: what its layers share, and a spec of each.  Holds no arrays.

    family names an entry of `pyroclast.families.registry`.  embedding_scale multiplies the rows of
    the embedding.  learned_positions: each position adds a row of a table of so many rows, which
    the context cannot exceed.  logit_scale multiplies the logits; logit_softcap then bounds them
    by logit_softcap * tanh(logit / logit_softcap).  layer_input: what every layer is told of the
    token itself.  draft_layer: the one layer of a head that predicts further tokens
    (`draft_head`), numbered behind the others; the model itself does not pass through it.
    streams: residual streams beside the usual one.
    """

    family: str
    layers: tuple[LayerSpec, ...]
    output_norm: NormSpec
    d_model: int
    vocab_size: int
    max_seq_len: int
    tie_embeddings: bool
    embedding_scale: float = 1.0
    learned_positions: int | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    layer_input: LayerInputSpec | None = None
    draft_layer: LayerSpec | None = None
    streams: StreamsSpec | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            check_size(field, getattr(self, field), limit)
        check_positive("embedding_scale", self.embedding_scale)
        check_positive("logit_scale", self.logit_scale)
        if self.logit_softcap is not None:
            check_positive("logit_softcap", self.logit_softcap)
        if self.learned_positions is not None:
            check_size("learned_positions", self.learned_positions, _LIMITS["max_seq_len"])
            check_size("max_seq_len", self.max_seq_len, self.learned_positions)
        if self.layer_input is not None and self.layer_input.n_rows < self.vocab_size:
            raise ModelFileError(
                f"the table of layer inputs has {self.layer_input.n_rows} rows, fewer than the "
                f"vocabulary's {self.vocab_size}"
            )
        caches = self.caches
        for i, attention in self.attentions.items():
            self._check_cache_layer(i, attention, caches)
        ids = self.eos_token_ids
        for token_id in ids if self.bos_token_id is None else (self.bos_token_id, *ids):
            if not 0 <= token_id < self.vocab_size:
                raise ModelFileError(
                    f"special token ids must be in 0..{self.vocab_size - 1}, got {token_id}"
                )

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    @property
    def all_layers(self) -> tuple[LayerSpec, ...]:
        """The layers, and that of the head that predicts further tokens."""
        return self.layers if self.draft_layer is None else (*self.layers, self.draft_layer)

    @property
    def attentions(self) -> dict[int, AttentionSpec]:
        """Attention by layer, of the layers that have it."""
        return {i: spec.attention for i, spec in enumerate(self.all_layers) if spec.has_attention}

    @property
    def caches(self) -> dict[int, AttentionSpec]:
        """Attention by layer, of the layers that keep keys and values of their own."""
        return {i: each for i, each in self.attentions.items() if each.cache_layer is None}

    @property
    def n_streams(self) -> int:
        """How many residual streams there are."""
        return 1 if self.streams is None else self.streams.n

    @property
    def has_laurel(self) -> bool:
        """Whether a layer has products of low rank beside its mixer."""
        return any(spec.laurel_rank is not None for spec in self.layers)

    def _check_cache_layer(
        self, i: int, attention: AttentionSpec, caches: dict[int, AttentionSpec]
    ) -> None:
        """ModelFileError unless the cache that layer i reads is there, and fits its heads."""
        if attention.cache_layer is None:
            return
        other = caches.get(attention.cache_layer)
        if other is None or attention.cache_layer >= i:
            raise ModelFileError(
                f"layer {i} reads the cache of layer {attention.cache_layer}, which must be an "
                "earlier layer that has one"
            )
        for field in ("n_kv_heads", "head_dim"):
            if getattr(attention, field) != getattr(other, field):
                raise ModelFileError(
                    f"layer {i} reads the cache of layer {attention.cache_layer}, so its {field} "
                    f"must be the same, {getattr(other, field)}, got {getattr(attention, field)}"
                )

    @property
    def is_recurrent(self) -> bool:
        """Whether a layer keeps a state that no position can be taken out of."""
        return any(spec.recurrent is not None for spec in self.layers)
