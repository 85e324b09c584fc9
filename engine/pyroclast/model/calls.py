"""The ops that a step calls in several places, with the arguments that the step's data give."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec
from pyroclast.model.layer_weights import QkNorm
from pyroclast.model.packer import Norm, Product
from pyroclast.model.workspace import Activations
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.memory import Weight
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.program import Recorder
from pyroclast_kernels.residual import AS_IT_IS

Array = NDArray[Any]


def call_embed(
    ops: Recorder,
    weight: Weight,
    ids: Array,
    out: Array,
    n_tokens: Array,
    *,
    scale: float = 1.0,
    accumulate: bool = False,
) -> None:
    """out = scale * the rows `ids` of weight: written, or added to what is there."""
    ops.call(
        "embed",
        weight.format,
        n_tokens=n_tokens,
        token_ids=ids,
        weight=weight,
        out=out,
        n_cols=out.shape[1],
        scale=float(scale),
        accumulate=int(accumulate),
    )


def call_norm(
    ops: Recorder,
    x: Array,
    norm: Norm,
    spec: NormSpec,
    out: Activations,
    n_tokens: Array,
    rows: Array | None = None,
) -> None:
    """out = the norm of x (max_batch_tokens, d_model), or of those rows of it."""
    ops.call(
        "norm",
        n_tokens=n_tokens,
        rows=rows,
        x=x,
        weight=norm.weight,
        bias=norm.bias,
        out=out.values,
        out_q8=out.q8,
        d_model=x.shape[1],
        eps=spec.eps,
        kind=KINDS.index(spec.kind),
    )


def call_product(
    ops: Recorder,
    x: Activations,
    product: Product,
    out: Array,
    n_tokens: Array,
    *,
    accumulate: bool = False,
) -> None:
    """The product's rows of `out`: written, or added to what is there."""
    weight = product.weight
    ops.call(
        "matmul",
        weight.format,
        n_tokens=n_tokens,
        x=x.of(weight),
        weight=weight,
        bias=product.bias,
        out=out[:, product.row_offset :],
        n_rows=weight.n_rows,
        n_cols=weight.n_cols,
        out_stride=out.shape[1],
        accumulate=int(accumulate),
    )


def call_quantize(ops: Recorder, x: Activations, n_tokens: Array) -> None:
    """x.q8 = x.values in 8-bit blocks."""
    assert x.values is not None
    ops.call("quantize", n_tokens=n_tokens, x=x.values, out_q8=x.q8, n_cols=x.values.shape[1])


def call_gate(ops: Recorder, x: Activations, gate: Array, n_tokens: Array) -> None:
    """x *= sigmoid(gate), in both of its forms."""
    assert x.values is not None
    ops.call(
        "sigmoid_gate",
        n_tokens=n_tokens,
        x=x.values,
        gate=gate,
        out_q8=x.q8,
        n_cols=x.values.shape[1],
        gate_stride=gate.shape[1],
    )


def call_residual(
    ops: Recorder,
    x: Array,
    y: Array,
    norm: Norm | None,
    spec: LayerSpec,
    n_tokens: Array,
    x_scale: Array | None = None,
) -> None:
    """x += residual_scale * y, y normed first where there is a norm; then x *= x_scale."""
    ops.call(
        "residual",
        n_tokens=n_tokens,
        x=x,
        y=y,
        weight=None if norm is None else norm.weight,
        bias=None if norm is None else norm.bias,
        x_scale=x_scale,
        d_model=x.shape[1],
        eps=spec.norm.eps,
        kind=AS_IT_IS if norm is None else KINDS.index(spec.norm.kind),
        scale=float(spec.residual_scale),
    )


def call_sparse_gate(ops: Recorder, ffn: FeedForwardSpec, gate_up: Array, n: Array) -> None:
    """Cuts the gates of n[0] tokens off, in place."""
    assert ffn.sparsity is not None
    ops.call(
        "sparse_gate",
        n_tokens=n,
        gate_up=gate_up,
        d_ff=ffn.d_ff,
        row_stride=gate_up.shape[1],
        deviations=float(ffn.sparsity),
    )


def activation_of(ffn: FeedForwardSpec) -> int:
    """The argument `activation` of `glu` and `gate_up`."""
    return ACTIVATIONS.index(ffn.activation)  # check_supported refuses others


def head_sizes(attention: AttentionSpec) -> dict[str, int]:
    """What a row of q, k and v is made of."""
    return {
        "n_heads": attention.n_heads,
        "n_kv_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
    }


def new_head_sizes(attention: AttentionSpec) -> dict[str, int]:
    """The same for the ops that change what a step's products gave.  A layer that reads the cache
    of another has no keys and values; its rows have room for them, which passes for queries that
    nobody reads."""
    sizes = head_sizes(attention)
    if attention.cache_layer is None:
        return sizes
    return sizes | {"n_heads": attention.n_heads + 2 * attention.n_kv_heads, "n_kv_heads": 0}


def call_qk_norm(
    ops: Recorder, attention: AttentionSpec, weights: QkNorm, qkv: Array, n: Array
) -> None:
    """Norms the queries and keys of n[0] tokens in place, and values that have a norm."""
    assert attention.qk_norm is not None
    ops.call(
        "qk_norm",
        "f32",
        n_tokens=n,
        qkv=qkv,
        q_weight=weights.q,
        k_weight=weights.k,
        v_weight=weights.v,
        **new_head_sizes(attention),
        eps=attention.qk_norm.eps,
        whole=int(attention.qk_norm_whole),
    )
