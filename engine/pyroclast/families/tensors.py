"""The weights of a model by canonical name, their shapes, and their names in a file."""

from __future__ import annotations

from collections.abc import Mapping

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import LayerSpec

Shape = tuple[int, ...]


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name ("layers.3.wq") -> shape of every weight that a model of this config has."""
    shapes: dict[str, Shape] = {
        "token_embd": (config.vocab_size, config.d_model),
        "output_norm": (config.d_model,),
    }
    if not config.tie_embeddings:
        shapes["output"] = (config.vocab_size, config.d_model)
    for i, spec in enumerate(config.layers):
        for name, shape in _layer_shapes(config.d_model, spec).items():
            shapes[f"layers.{i}.{name}"] = shape
    return shapes


def _layer_shapes(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    attention, d_ff = spec.attention, spec.ffn.d_ff
    q_dim, kv_dim = attention.q_dim, attention.kv_dim
    shapes: dict[str, Shape] = {
        "attn_norm": (d_model,),
        "wq": (q_dim, d_model),
        "wk": (kv_dim, d_model),
        "wv": (kv_dim, d_model),
        "wo": (d_model, q_dim),
        "ffn_norm": (d_model,),
        "w_gate": (d_ff, d_model),
        "w_up": (d_ff, d_model),
        "w_down": (d_model, d_ff),
    }
    if attention.qkv_bias:
        shapes |= {"bq": (q_dim,), "bk": (kv_dim,), "bv": (kv_dim,)}
    if attention.o_bias:
        shapes["bo"] = (d_model,)
    if spec.ffn.bias:
        shapes |= {"b_gate": (d_ff,), "b_up": (d_ff,), "b_down": (d_model,)}
    return shapes


def template_of(name: str) -> tuple[str, int | None]:
    """("layers.{i}.wq", 3) of "layers.3.wq"; (name, None) of what belongs to no layer."""
    first, _, rest = name.partition(".")
    if first != "layers":
        return name, None
    layer, _, last = rest.partition(".")
    return f"layers.{{i}}.{last}", int(layer)


def name_in_file(names: Mapping[str, str], name: str) -> str:
    """What a file with these names (Family.hf_tensors, gguf_tensors) calls a canonical name."""
    template, layer = template_of(name)
    return names[template].format(i=layer)
