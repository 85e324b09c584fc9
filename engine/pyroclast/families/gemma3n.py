"""Gemma 3n (text): Gemma 4's per-layer embeddings and shared caches, with residual streams beside
the one that layers change (AltUp), products of low rank beside attention (LAuReL), and sparse gates
in the first layers.

Norm weights are stored as they are.  Folders have no rows of per-layer embeddings for the tokens
that stand for pictures and sounds: these have the first row's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families import gemma, gemma4, llama
from pyroclast.families.checks import check_number, check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import (
    MAX_STREAMS,
    AttentionSpec,
    FeedForwardSpec,
    LayerInputSpec,
    LayerSpec,
    NormSpec,
    StreamsSpec,
)

_PERIOD = 5  # where the file does not say: every fifth layer sees everything
# Where the file does not say, so many first layers of a longer model have sparse gates.
_N_SPARSE, _SPARSITY = 10, 0.95
_RANK = 64  # which GGUF files do not state
_MAX_VOCABULARY = 1 << 24


def config(h: Hyperparameters) -> ModelConfig:
    """Layers with a window and without, in the order that the file has."""
    windowed = h.windowed or tuple((i + 1) % _PERIOD != 0 for i in range(h.n_layers))
    sharing = gemma4.cache_layers(h, windowed)
    sparsity = _sparsity(h)
    return h.config(
        (_layer(h, i, windowed[i], sharing[i], sparsity[i]) for i in range(h.n_layers)),
        embedding_scale=math.sqrt(h.d_model),
        logit_softcap=h.optional("logit_softcap"),
        layer_input=_layer_input(h),
        streams=_streams(h),
    )


def _layer(
    h: Hyperparameters, i: int, windowed: bool, cache_layer: int | None, sparsity: float | None
) -> LayerSpec:
    norm = NormSpec(h.norm_eps, weight_offset=h.norm_offset)
    attention = AttentionSpec(
        n_heads=h.n_heads,
        n_kv_heads=h.n_kv_heads,
        head_dim=h.head_dim,
        rope=h.window_rope if windowed else h.rope,
        window=h.sliding_window if windowed else None,
        qkv_bias=h.qkv_bias,
        o_bias=h.o_bias,
        scale=1.0,
        qk_norm=norm,
        v_norm=True,
        cache_layer=cache_layer,
    )
    ffn = FeedForwardSpec(h.of_layer("d_ff", i), h.activation, sparsity=sparsity)
    rank = h.size("laurel_rank", _RANK)
    return LayerSpec(attention, ffn, norm, norm_after=True, laurel_rank=rank)


def _streams(h: Hyperparameters) -> StreamsSpec:
    active = h.extra.get("active_stream", 0)
    if type(active) is not int or active != 0:
        raise UnsupportedModelError(
            f"the residual stream that layers change must be number 0, got {active!r}"
        )
    return StreamsSpec(h.size("n_streams", 4), h.flag("scales_streams", default=True))


def _layer_input(h: Hyperparameters) -> LayerInputSpec | None:
    """With a row for every token: those that a folder leaves out are its first."""
    given = gemma4.layer_input(h)
    check_size("vocab_size", h.vocab_size, _MAX_VOCABULARY)
    if given is None or given.n_rows >= h.vocab_size:
        return given
    return replace(given, n_rows=h.vocab_size, n_stored=given.n_rows)


def _sparsity(h: Hyperparameters) -> list[float | None]:
    """Of each layer: how many standard deviations above the mean its gate begins.  A folder states
    the share of gates that are 0, a GGUF file the deviations."""
    shares, deviations = h.extra.get("sparsity"), h.extra.get("deviations")
    if deviations is not None:
        found = _of_layers("activation_sparsity_scale", deviations, h.n_layers)
        return [None if each == -math.inf else float(each) for each in found]
    if shares is None:
        n_sparse = _N_SPARSE if h.n_layers > _N_SPARSE else 0
        shares = [_SPARSITY] * n_sparse + [0.0] * (h.n_layers - n_sparse)
    found = _of_layers("activation_sparsity_pattern", shares, h.n_layers)
    for each in found:
        check_number("activation_sparsity_pattern", each, 0.0, 1.0)
        if each == 1:
            raise ModelFileError("activation_sparsity_pattern must be below 1, got 1")
    from statistics import NormalDist  # late: it takes as long as all other families

    return [NormalDist().inv_cdf(each) if each > 0 else None for each in found]


def _of_layers(key: str, values: Any, n_layers: int) -> list[float]:
    """A list with a number for each layer."""
    numbers = isinstance(values, list) and all(type(each) in (int, float) for each in values)
    if not numbers or len(values) != n_layers:
        raise ModelFileError(
            f"{key} must be a list with a number for each of {n_layers} layers, got {values!r:.100}"
        )
    return list(values)


_HF_LAYER = {
    **gemma4.HF_INPUT,
    "layers.{i}.w_laurel_in": "model.layers.{i}.laurel.linear_left.weight",
    "layers.{i}.w_laurel_out": "model.layers.{i}.laurel.linear_right.weight",
    "layers.{i}.laurel_norm": "model.layers.{i}.laurel.post_laurel_norm.weight",
    "layers.{i}.altup_router_norm": "model.layers.{i}.altup.router_norm.weight",
    "layers.{i}.altup_router": "model.layers.{i}.altup.modality_router.weight",
    "layers.{i}.altup_predict": "model.layers.{i}.altup.prediction_coefs.weight",
    "layers.{i}.altup_correct": "model.layers.{i}.altup.correction_coefs.weight",
    "layers.{i}.altup_scale": "model.layers.{i}.altup.correct_output_scale",
}
_GGUF_LAYER = {
    **gemma4.GGUF_INPUT,
    "layers.{i}.w_laurel_in": "blk.{i}.laurel_l.weight",
    "layers.{i}.w_laurel_out": "blk.{i}.laurel_r.weight",
    "layers.{i}.laurel_norm": "blk.{i}.laurel_post_norm.weight",
    "layers.{i}.altup_router_norm": "blk.{i}.altup_router_norm.weight",
    "layers.{i}.altup_router": "blk.{i}.altup_router.weight",
    "layers.{i}.altup_predict": "blk.{i}.altup_predict_coef.weight",
    "layers.{i}.altup_correct": "blk.{i}.altup_correct_coef.weight",
    "layers.{i}.altup_scale": "blk.{i}.altup_correct_scale.weight",
}
_OTHERS = range(1, MAX_STREAMS)
_HF_STREAMS = {f"w_stream_in_{j}": f"model.altup_projections.{j - 1}.weight" for j in _OTHERS} | {
    f"w_stream_out_{j}": f"model.altup_unembed_projections.{j - 1}.weight" for j in _OTHERS
}
_GGUF_STREAMS = {
    "altup_proj.weight": tuple(f"w_stream_in_{j}" for j in _OTHERS),
    "altup_unembd_proj.weight": tuple(f"w_stream_out_{j}" for j in _OTHERS),
}

GEMMA3N = replace(
    gemma.GEMMA3,
    name="gemma3n_text",
    config=config,
    hf_model_type="gemma3n_text",
    gguf_architecture="gemma3n",
    hf_tensors={**gemma.GEMMA3.hf_tensors, **_HF_LAYER, **gemma4.HF_MODEL, **_HF_STREAMS},
    gguf_tensors={**gemma.GEMMA3.gguf_tensors, **_GGUF_LAYER, **gemma4.GGUF_MODEL},
    gguf_fused=_GGUF_STREAMS,
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if field != "ffn_bias"},
        "activation": "hidden_activation",
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "window_rope_theta": "rope_local_base_freq",
        "logit_softcap": "final_logit_softcapping",
        "n_sharing_layers": "num_kv_shared_layers",
        "layer_input_width": "hidden_size_per_layer_input",
        "layer_input_rows": "vocab_size_per_layer_input",
        "n_streams": "altup_num_inputs",
        "active_stream": "altup_active_idx",
        "scales_streams": "altup_correct_scale",
        "laurel_rank": "laurel_rank",
        "sparsity": "activation_sparsity_pattern",
    },
    gguf_keys={
        **llama.GGUF_KEYS,
        "windowed": "attention.sliding_window_pattern",
        "window_rope_theta": "rope.freq_base_swa",
        "logit_softcap": "final_logit_softcapping",
        "n_sharing_layers": "attention.shared_kv_layers",
        "layer_input_width": "embedding_length_per_layer_input",
        "n_streams": "altup.num_inputs",
        "active_stream": "altup.active_idx",
        "deviations": "activation_sparsity_scale",
    },
    gguf_of_layers=frozenset({"d_ff"}),
    hf_of_layers=frozenset({"d_ff"}),
    hf_defaults={
        "n_layers": 35,
        "n_heads": 8,
        "n_kv_heads": 2,
        "head_dim": 256,
        "d_model": 2048,
        "d_ff": 16384,
        "vocab_size": 262400,
        "max_seq_len": 32768,
        "norm_eps": 1e-6,
        "tie_embeddings": True,
        "activation": "gelu_pytorch_tanh",
        "sliding_window": 512,
        "rope_theta": 1e6,
        "window_rope_theta": 10000.0,
        "logit_softcap": 30.0,
        "n_sharing_layers": 15,
        "layer_input_width": 256,
        "layer_input_rows": 262144,
    },
    hf_allowed={},
    gguf_defaults={
        "activation": "gelu_tanh",
        "rope_theta": 1e6,
        "window_rope_theta": 10000.0,
        "logit_softcap": 30.0,
    },
)
