"""What a LayerSpec may ask for and no kernel does yet: refused by name, before anything is loaded.

Whoever adds the op takes its line away here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from pyroclast.errors import UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.layer_spec import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
)
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.altup import MAX_STREAMS
from pyroclast_kernels.attention import MAX_HEAD_DIM
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS


def check_supported(config: ModelConfig) -> None:
    """UnsupportedModelError that names the first layer and what it asks for in vain."""
    given = config.layer_input
    if given is not None and given.activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"the layers' inputs have the activation {given.activation!r} (supported: "
            f"{', '.join(ACTIVATIONS)})"
        )
    if config.streams is not None and given is None:
        raise UnsupportedModelError(
            f"the model has {config.streams.n} residual streams and nothing that layers are told "
            "of the token itself, which no kernel supports yet"
        )
    if config.n_streams > MAX_STREAMS:
        raise UnsupportedModelError(
            f"the model has {config.n_streams} residual streams (the maximum is {MAX_STREAMS})"
        )
    if not config.attentions:
        raise UnsupportedModelError(
            f"none of the {config.n_layers} layers has attention; a model needs one that has"
        )
    for i, spec in enumerate(config.all_layers):
        features = _unsupported_in_layer(spec)
        if config.streams is not None:
            features = chain(features, _unsupported_with_streams(spec))
        for feature in features:
            raise UnsupportedModelError(f"layer {i} has {feature}, which no kernel supports yet")


def _unsupported_in_layer(spec: LayerSpec) -> Iterator[str]:
    if spec.has_attention:
        yield from _unsupported_in_attention(spec.attention)
    if spec.ffn is not None:
        yield from _unsupported_in_ffn(spec.ffn)
    if (experts := spec.experts) is not None:
        yield from _unsupported_in_experts(spec, experts)
    if spec.out_scale and spec.ffn is None:
        yield "a number that multiplies the state, without a feed-forward"
    if spec.laurel_rank is not None and (
        spec.mixer is None or not spec.norm_before or spec.residual_scale != 1
    ):
        yield "products of low rank beside no mixer, no norm, or a residual multiplier"


def _unsupported_in_experts(spec: LayerSpec, experts: ExpertsSpec) -> Iterator[str]:
    if experts.shared_d_ff and not spec.norm_before:
        yield "a shared expert without a norm before it"
    if experts.own_norms:
        if not experts.shared_d_ff or not spec.norm_after or spec.norm.bias:
            yield "norms of experts without a shared one, without a norm after both, or with biases"
        return
    if spec.norm_after:
        yield "a norm after its experts"
    if spec.out_scale:
        yield "a number that multiplies the state after experts"


def _unsupported_with_streams(spec: LayerSpec) -> Iterator[str]:
    if spec.out_scale:
        yield "a number that multiplies the state, beside several residual streams"
    if spec.norm.kind != "rms" or spec.norm.bias:
        yield "a norm with a mean or a bias, beside several residual streams"
    if spec.residual_scale != 1:
        yield "a residual multiplier, beside several residual streams"


def _unsupported_in_attention(attention: AttentionSpec) -> Iterator[str]:
    if attention.head_dim > MAX_HEAD_DIM:
        yield f"a head_dim of {attention.head_dim} (the maximum is {MAX_HEAD_DIM})"
    if attention.qk_norm is not None and (
        attention.qk_norm.kind != "rms" or attention.qk_norm.bias
    ):
        yield "a norm on queries and keys with a mean or a bias (supported: rms)"
    if attention.cache_layer is not None and attention.qk_norm_whole:
        yield "one norm on all queries, beside the cache of another layer"
    if attention.v_norm and attention.qk_norm is None:
        yield "a norm on values alone (supported: beside one on queries and keys)"


def _unsupported_in_ffn(ffn: FeedForwardSpec) -> Iterator[str]:
    activations = ACTIVATIONS if ffn.experts is None else EXPERT_ACTIVATIONS
    if ffn.activation not in activations:
        yield f"the activation {ffn.activation!r} (supported: {', '.join(activations)})"
    if ffn.sparsity is not None and (ffn.experts is not None or not ffn.gated):
        yield "sparse gates of experts, or without a gate"
    if ffn.experts is None and (ffn.limit is not None or ffn.up_offset):
        yield "a limit or an offset in a feed-forward without experts"
