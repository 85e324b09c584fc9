"""What a LayerSpec may ask for and no kernel does yet: refused by name, before anything is loaded.

Whoever adds the op takes its line away here.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyroclast.errors import UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    RecurrentSpec,
)
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.attention import MAX_HEAD_DIM


def check_supported(config: ModelConfig) -> None:
    """UnsupportedModelError that names the first layer and what it asks for in vain."""
    for i, spec in enumerate(config.layers):
        for feature in _unsupported_in_layer(spec):
            raise UnsupportedModelError(f"layer {i} has {feature}, which no kernel supports yet")


def _unsupported_in_layer(spec: LayerSpec) -> Iterator[str]:
    if isinstance(spec.mixer, RecurrentSpec):
        yield f"a recurrent mixer ({spec.mixer.kind})"
    else:
        yield from _unsupported_in_attention(spec.mixer)
    yield from _unsupported_in_ffn(spec.ffn)


def _unsupported_in_attention(attention: AttentionSpec) -> Iterator[str]:
    if attention.head_dim > MAX_HEAD_DIM:
        yield f"a head_dim of {attention.head_dim} (the maximum is {MAX_HEAD_DIM})"
    if attention.qk_norm is not None and (
        attention.qk_norm.kind != "rms" or attention.qk_norm.bias
    ):
        yield "a norm on queries and keys with a mean or a bias (supported: rms)"
    if attention.gate:
        yield "a gate on attention"
    if attention.cache_layer is not None:
        yield f"the cache of layer {attention.cache_layer} instead of its own"


def _unsupported_in_ffn(ffn: FeedForwardSpec) -> Iterator[str]:
    if ffn.experts is not None:
        yield f"a mixture of {ffn.experts.n_experts} experts"
    if ffn.activation not in ACTIVATIONS:
        yield f"the activation {ffn.activation!r} (supported: {', '.join(ACTIVATIONS)})"
