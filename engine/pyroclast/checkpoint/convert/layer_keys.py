"""Keys of families with recurrent layers that follow from the layers, not from one value of a
config.json: which layers have a state, sizes of that state, widths, experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyroclast.errors import ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GATING_FUNCTIONS
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec
from pyroclast.families.recurrent import (
    GatedDeltaSpec,
    Mamba2Spec,
    RecurrentSpec,
    ShortConvSpec,
)
from pyroclast.files.gguf_writer import Value

# How many rotary pairs turn by time, height, width and nothing, where a folder does not say.  Of a
# text all positions are the same, but llama.cpp wants the key.
_SECTIONS = (11, 11, 10, 0)


def fields_of_layers(family: Family, config: ModelConfig) -> dict[str, Value]:
    """Fields that `Family.gguf_keys` names -> what the layers say of them."""
    found: dict[str, Value] = {}
    if "rotates" in family.gguf_keys:
        rotates = any(each.rope is not None for each in config.attentions.values())
        found["rotates"] = Value("bool", rotates)
    if not family.is_recurrent:
        return found
    layers = config.all_layers
    found["n_layers"] = _whole(len(layers))
    if config.draft_layer is not None:
        found["n_draft_layers"] = _whole(1)
    found |= _kinds(family, config) | _widths(family, layers) | _experts(layers)
    for spec in layers:
        if spec.recurrent is not None:
            found |= {field: _whole(size) for field, size in _sizes(spec.recurrent)}
            break
    return found


def _whole(number: int) -> Value:
    return Value("u32", number)


def _kinds(family: Family, config: ModelConfig) -> dict[str, Value]:
    """Which layers have a state: a list of them, or of each layer's heads of keys."""
    layers = config.all_layers
    if "recurrent" not in family.gguf_keys:
        heads = [spec.attention.n_kv_heads if spec.has_attention else 0 for spec in layers]
        return {"n_kv_heads": Value("[u32]", heads)}
    recurrent = [spec.recurrent is not None for spec in layers]
    found = {"recurrent": Value("[bool]", recurrent)}
    # For readers that do not know the list; none counts the layer that predicts further tokens.
    own = recurrent[: config.n_layers]
    interval = own.index(False) + 1 if False in own else len(own) + 1
    if own == [(i + 1) % interval != 0 for i in range(len(own))]:
        found["attention_interval"] = _whole(interval)
    return found


def _sizes(mixer: RecurrentSpec) -> Iterator[tuple[str, int]]:
    yield "conv_width", mixer.kernel
    if isinstance(mixer, GatedDeltaSpec):
        yield "k_head_dim", mixer.k_head_dim
        yield "n_k_heads", mixer.n_k_heads
        yield "n_v_heads", mixer.n_v_heads
        yield "v_dim", mixer.value_dim
    if isinstance(mixer, Mamba2Spec):
        yield "d_state", mixer.d_state
        yield "n_ssm_groups", mixer.n_groups
        yield "n_ssm_heads", mixer.n_heads
        yield "ssm_dim", mixer.value_dim


def _widths(family: Family, layers: Sequence[LayerSpec]) -> dict[str, Value]:
    """Of each layer where some have no feed-forward, else of those that every token passes."""
    if family.parts_alone:
        return {"d_ff": Value("[u32]", [0 if s.ffn is None else s.ffn.d_ff for s in layers])}
    ffns = [spec.ffn for spec in layers if spec.ffn is not None]
    dense = [ffn.d_ff for ffn in ffns if ffn.experts is None]
    return {"d_ff": _whole((dense or [ffn.d_ff for ffn in ffns])[0])}


def _experts(layers: Sequence[LayerSpec]) -> dict[str, Value]:
    for spec in layers:
        if spec.ffn is not None and (experts := spec.ffn.experts) is not None:
            return {
                "n_experts": _whole(experts.n_experts),
                "n_active": _whole(experts.n_active),
                "d_expert": _whole(spec.ffn.d_ff),
                "d_shared": _whole(experts.shared_d_ff),
                "renormalizes": Value("bool", experts.renormalize),
                "experts_scale": Value("f32", experts.scale),
                "n_expert_groups": _whole(1),
                "gating": _whole(GATING_FUNCTIONS[experts.scoring]),
            }
    width = next((spec.ffn.d_ff for spec in layers if spec.ffn is not None), 0)
    return {"n_experts": _whole(0), "n_active": _whole(0), "d_shared": _whole(width)}


def keys_for_llama_cpp(
    h: Hyperparameters, family: Family, config: ModelConfig
) -> Iterator[tuple[str, Value]]:
    """Keys that llama.cpp wants and that say nothing new to Pyroclast."""
    if not family.is_recurrent:
        return
    if any(isinstance(spec.recurrent, GatedDeltaSpec) for spec in config.layers):
        yield "rope.dimension_sections", Value("[i32]", _sections(h.extra.get("sections")))
    if family.parts_alone:
        yield "attention.layer_norm_epsilon", Value("f32", h.norm_eps)
        yield "rope.scaling.finetuned", Value("bool", False)
    if config.layers and any(spec.experts is not None for spec in config.layers):
        if any(isinstance(spec.recurrent, ShortConvSpec) for spec in config.layers):
            dense = [spec.experts is None for spec in config.layers]
            yield "leading_dense_block_count", _whole(dense.index(False))
        if family.parts_alone:
            yield "expert_shared_count", _whole(1)


def _sections(given: Any) -> list[int]:
    if given is None:
        return list(_SECTIONS)
    sizes = given if isinstance(given, list) else []
    if not 1 <= len(sizes) <= 4 or any(type(each) is not int or each < 0 for each in sizes):
        raise ModelFileError(
            "mrope_section must be a list of at most 4 whole numbers (rotary pairs of time, height "
            f"and width), got {given!r:.100}"
        )
    return sizes + [0] * (4 - len(sizes))
