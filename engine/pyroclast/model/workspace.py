"""The buffers of a step, shared by all layers.  Unused rows of a buffer are never touched, so a
large step size costs address space only.

Layers may differ in size.  Each buffer has room for the widest of them, and a layer uses the
beginning of it as rows of its own width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec, LayerSpec
from pyroclast.families.recurrent import Mamba2Spec, RecurrentSpec, ShortConvSpec
from pyroclast.families.rope import RopeSpec, inv_freq
from pyroclast.model.kv_cache import value_stride
from pyroclast.model.layer_weights import Layer
from pyroclast.model.packer import Product
from pyroclast.model.weights import Weights
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory, Weight
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK

Array = NDArray[Any]
RopeKey = tuple[RopeSpec | None, int]  # with head_dim

# Steps of at most this many tokens share one token's positions among threads; larger ones have
# enough tokens to go round.
MAX_SPLIT_TOKENS = 16
# The products of a layer that read what comes before its mixer, and before its feed-forward.
_MIXER_INPUTS = ("qkv", "gate", "laurel_in")
_FFN_INPUTS = ("router", "expert_gate_up", "gate_up")


@dataclass(frozen=True)
class Activations:
    """One intermediate result of a step, in the forms that its readers take: float32 values,
    8-bit blocks, or both.  On the GPU bfloat16 values (uint16 here) where bf16 weights are all that
    reads them: its kernels would round them to that anyway."""

    values: Array | None
    q8: Array | None

    @classmethod
    def zeros(
        cls, n_rows: int, width: int, readers: Sequence[Weight], memory: Memory, *, keep: bool
    ) -> Activations:
        """Buffers for these readers.  keep: float32 values, whoever reads them."""
        plain = {weight.format for weight in readers if not weight.takes_q8}
        rounds = memory.on_gpu and plain == {"bf16"} and not keep
        values = q8 = None
        if plain or keep:
            values = memory.zeros((n_rows, width), np.uint16 if rounds else np.float32)
        if any(weight.takes_q8 for weight in readers):
            q8 = memory.zeros((n_rows, width // BLOCK), Q8_BLOCK)
        return cls(values, q8)

    def of(self, weight: Weight) -> Array:
        """What a product with `weight` reads."""
        x = self.q8 if weight.takes_q8 else self.values
        assert x is not None
        return x

    def part(self, width: int, readers: Sequence[Weight], *, keep: bool = False) -> Activations:
        """The forms that these readers take, as rows of `width`."""
        plain = keep or any(not weight.takes_q8 for weight in readers)
        quantized = any(weight.takes_q8 for weight in readers)
        return Activations(
            None if self.values is None or not plain else as_rows(self.values, width),
            None if self.q8 is None or not quantized else as_rows(self.q8, width // BLOCK),
        )


def as_rows(array: Array, width: int) -> Array:
    """The same memory, as many rows, but of a smaller width and adjacent."""
    n_rows, whole = array.shape
    return array if width == whole else array.reshape(-1)[: n_rows * width].reshape(n_rows, width)


@dataclass(frozen=True)
class RopeTable:
    """Cosines and sines of a step's positions, for all layers that rotate alike: out
    (max_batch_tokens, 2, half_dim) of the frequencies (half_dim,), times amplitude.  half_dim 0:
    these layers rotate nothing."""

    inv_freq: Array
    out: Array
    half_dim: int
    amplitude: float


@dataclass(frozen=True)
class AttentionBuffers:
    """What only attention uses: gate is what multiplies its result, where there is one."""

    qkv: Array
    gate: Array | None
    rope_table: RopeTable


@dataclass(frozen=True)
class LayerBuffers:
    """The workspace as one layer uses it; attn_in and attn_out are those of any mixer.
    quantizes_apart: the mixer cannot give the 8-bit blocks that wo reads, so an op after it makes
    them of attn_out.values.  added is where the
    products of a block's output go: x itself, to which they are added, or room of their own if a
    norm or a factor comes before the addition."""

    attn_in: Activations
    attn_out: Activations
    attention: AttentionBuffers | None
    quantizes_apart: bool
    ffn_in: Activations
    gate_up: Array
    ffn_out: Activations
    added: Array


class Workspace:
    """Every buffer of a step.  Which forms an intermediate result takes is decided by the weights
    that read it; keeps_values: all take values as well, which adapters read.  max_seq_len is the
    context in use, which some rotary frequencies depend on."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        max_splits: int,
        memory: Memory,
        *,
        max_seq_len: int,
        keeps_values: bool = False,
    ) -> None:
        self._keeps_values = keeps_values
        n, zeros, d_model = batch.max_batch_tokens, memory.zeros, config.d_model
        attentions = list(config.attentions.values())
        mixed, d_ff = (max(map(f, config.all_layers)) for f in (_mixed_width, _dense_width))

        def for_readers(width: int, *groups: str, keep: bool = False) -> Activations:
            readers = _readers(weights, groups)
            keep = keep or (keeps_values and all(w.takes_q8 for w in readers))
            return Activations.zeros(n, width, readers, memory, keep=keep)

        self.streams = zeros((config.n_streams, n, d_model), np.float32)
        self.x = self.streams[0]
        later = any(map(_adds_later, config.all_layers))
        self._added = zeros((n, d_model), np.float32) if later else self.x
        self.rope_tables = _rope_tables(attentions, n, max_seq_len, memory)
        self._qkv = zeros((n, max(attention.qkv_dim for attention in attentions)), np.float32)
        self._gate_up = zeros((n, max(map(_gate_up_width, config.all_layers))), np.float32)
        self._attn_in = for_readers(d_model, *_MIXER_INPUTS, keep=config.has_laurel)
        # No op of a recurrent layer rounds its result to bf16.
        keep = config.is_recurrent
        keep = keep or any(map(_quantizes_apart, config.all_layers, weights.all_layers))
        self._attn_out = for_readers(mixed, "wo", keep=keep)
        self._gate = zeros((n, max(map(_gate_width, config.all_layers))), np.float32)
        self._ffn_in = for_readers(d_model, *_FFN_INPUTS)
        self._ffn_out = for_readers(d_ff, "w_down")
        head = [weights.output]
        self.head_in = Activations.zeros(batch.max_logits, d_model, head, memory, keep=False)
        self._make_scratch(attentions, max_splits, memory)
        self.logits = zeros((batch.max_logits, config.vocab_size), np.float32)

    def _make_scratch(
        self, attentions: Sequence[AttentionSpec], max_splits: int, memory: Memory
    ) -> None:
        """What threads need that share one token's positions."""
        # The GPU's kernels share out positions in scratch memory of their own.
        self.max_split_tokens = 1 if memory.on_gpu else MAX_SPLIT_TOKENS
        cells = self.max_split_tokens * max(attention.n_heads for attention in attentions)
        stride = max(value_stride(attention.head_dim) for attention in attentions)
        self.scratch = memory.zeros((cells, max_splits, stride + 2), np.float32)
        self.counters = memory.zeros((cells,), np.int32)

    def of_layer(self, spec: LayerSpec, layer: Layer) -> LayerBuffers:
        """What a layer of this spec and with these weights reads and writes."""
        d_ff, keep = _dense_width(spec), self._keeps_values
        quantizes = _quantizes_apart(spec, layer)
        return LayerBuffers(
            attn_in=self._block_in(
                spec, self._attn_in, _products(layer, _MIXER_INPUTS), spec.laurel_rank is not None
            ),
            attn_out=self._attn_out.part(
                _mixed_width(spec), _weights_of(layer.wo), keep=quantizes or keep
            ),
            attention=self._of_attention(spec),
            quantizes_apart=quantizes,
            ffn_in=self._block_in(spec, self._ffn_in, _products(layer, _FFN_INPUTS)),
            gate_up=as_rows(self._gate_up, _gate_up_width(spec)),
            ffn_out=self._ffn_out.part(d_ff, _weights_of(layer.w_down), keep=keep),
            added=self._added if _adds_later(spec) else self.x,
        )

    def _of_attention(self, spec: LayerSpec) -> AttentionBuffers | None:
        if not spec.has_attention:
            return None
        attention = spec.attention
        return AttentionBuffers(
            as_rows(self._qkv, attention.qkv_dim),
            as_rows(self._gate, attention.q_dim) if attention.gate else None,
            self.rope_tables[attention.rope, attention.head_dim],
        )

    def _block_in(
        self, spec: LayerSpec, buffer: Activations, readers: Sequence[Product], keep: bool = False
    ) -> Activations:
        """What the first products of a block read: a norm of x, or x itself."""
        d_model = self.x.shape[1]
        found = buffer.part(d_model, _weights_of(readers), keep=keep or self._keeps_values)
        return found if spec.norm_before else Activations(self.x, found.q8)


def _adds_later(spec: LayerSpec) -> bool:
    """Whether what a block gives is normed or scaled before it is added to x, or x after it."""
    return spec.norm_after or spec.residual_scale != 1 or spec.out_scale


def _dense_width(spec: LayerSpec) -> int:
    """Of a feed-forward that every token passes through; experts have other buffers."""
    return 0 if spec.ffn is None else spec.ffn.dense_d_ff


def _gate_up_width(spec: LayerSpec) -> int:
    return 0 if spec.ffn is None else len(spec.ffn.inputs) * spec.ffn.dense_d_ff


def _readers(weights: Weights, groups: Sequence[str]) -> list[Weight]:
    """What multiplies one buffer: those groups of products, of all layers."""
    return [w for layer in weights.all_layers for w in _weights_of(_products(layer, groups))]


def _products(layer: Layer, groups: Sequence[str]) -> list[Product]:
    return [product for group in groups for product in getattr(layer, group)]


def _weights_of(products: Sequence[Product]) -> list[Weight]:
    return [product.weight for product in products]


def _mixed_width(spec: LayerSpec) -> int:
    """Values of a token that the last product of a mixer reads."""
    if spec.recurrent is not None:
        return spec.recurrent.out_width
    return spec.attention.q_dim if spec.has_attention else 0


def _gate_width(spec: LayerSpec) -> int:
    has_gate = spec.has_attention and spec.attention.gate
    return spec.attention.q_dim if has_gate else 0


def _quantizes_apart(spec: LayerSpec, layer: Layer) -> bool:
    """Attention and the gated delta rule quantize head by head, Mamba 2 by what it norms together;
    where a block of 32 spans two of these, or a gate comes between, they cannot."""
    takes_q8 = any(weight.takes_q8 for weight in _weights_of(layer.wo))
    if spec.recurrent is not None:
        return takes_q8 and _normed_together(spec.recurrent) % BLOCK != 0
    if not spec.has_attention:
        return False
    return spec.attention.gate or (takes_q8 and spec.attention.head_dim % BLOCK != 0)


def _normed_together(mixer: RecurrentSpec) -> int:
    """How many neighbouring values of its result it makes at once."""
    if isinstance(mixer, ShortConvSpec):
        return BLOCK
    return mixer.norm_width if isinstance(mixer, Mamba2Spec) else mixer.v_head_dim


def _rope_tables(
    attentions: Sequence[AttentionSpec], max_batch_tokens: int, max_seq_len: int, memory: Memory
) -> dict[RopeKey, RopeTable]:
    tables: dict[RopeKey, RopeTable] = {}
    for attention in attentions:
        rope, key = attention.rope, (attention.rope, attention.head_dim)
        if key in tables:
            continue
        half_dim = 0 if rope is None else rope.rotated(attention.head_dim) // 2
        frequencies = np.zeros(1, np.float32)  # what is not rotated still passes an address
        if rope is not None:
            frequencies = inv_freq(rope, attention.head_dim, max_seq_len)
        out = memory.zeros((max_batch_tokens, 2, max(half_dim, 1)), np.float32)
        amplitude = 1.0 if rope is None else rope.amplitude
        tables[key] = RopeTable(memory.constant(frequencies), out, half_dim, amplitude)
    return tables
