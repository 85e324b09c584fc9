"""The weights of a model by canonical name, their shapes, and their names in a file."""

from __future__ import annotations

from collections.abc import Mapping

from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec

Shape = tuple[int, ...]


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name ("layers.3.wq") -> shape of every weight that a model of this config has."""
    shapes: dict[str, Shape] = {
        "token_embd": (config.vocab_size, config.d_model),
        "output_norm": (config.d_model,),
    }
    if not config.tie_embeddings:
        shapes["output"] = (config.vocab_size, config.d_model)
    if config.output_norm.bias:
        shapes["output_norm_bias"] = (config.d_model,)
    if config.learned_positions is not None:
        shapes["position_embd"] = (config.learned_positions, config.d_model)
    for i, spec in enumerate(config.layers):
        layer = _usual_shapes(config.d_model, spec) | _more_vectors(config.d_model, spec)
        layer |= _expert_biases(config.d_model, spec.ffn)
        for name, shape in layer.items():
            shapes[f"layers.{i}.{name}"] = shape
    return shapes


def _usual_shapes(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: its products, and the norms before them."""
    d_ff = spec.ffn.d_ff
    shapes: dict[str, Shape] = {
        "attn_norm": (d_model,),
        **_mixer_shapes(d_model, spec),
        "ffn_norm": (d_model,),
        "w_gate": (d_ff, d_model),
        "w_up": (d_ff, d_model),
        "w_down": (d_model, d_ff),
    }
    if not spec.ffn.gated:
        del shapes["w_gate"]
    if not spec.norm_before:
        del shapes["attn_norm"], shapes["ffn_norm"]
    return shapes if spec.ffn.experts is None else _with_experts(d_model, shapes, spec.ffn.experts)


def _mixer_shapes(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: the weights of its mixer, but for biases and norms of attention."""
    if spec.recurrent is not None:
        return spec.recurrent.shapes(d_model)
    attention = spec.attention
    shapes: dict[str, Shape] = {
        "wq": (attention.q_dim, d_model),
        "wk": (attention.kv_dim, d_model),
        "wv": (attention.kv_dim, d_model),
        "wo": (d_model, attention.q_dim),
    }
    return shapes | ({"w_q_gate": (attention.q_dim, d_model)} if attention.gate else {})


def _with_experts(d_model: int, shapes: dict[str, Shape], experts: ExpertsSpec) -> dict[str, Shape]:
    """A layer's products with those of its feed-forward once for each expert, and its router."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if name in ("w_gate", "w_up", "w_down"):
            found[f"{name}_experts"] = (experts.n_experts, *shape)
        else:
            found[name] = shape
    return found | {"w_router": (experts.n_experts, d_model)}


def _more_vectors(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: biases, norms after blocks and of q and k, sinks."""
    ffn = spec.ffn
    sizes = _attention_sizes(d_model, spec.attention) if spec.recurrent is None else {}
    if ffn.experts is not None and ffn.experts.router_bias:
        sizes["b_router"] = ffn.experts.n_experts
    if ffn.experts is not None and ffn.experts.selection_bias:
        sizes["b_selection"] = ffn.experts.n_experts
    if ffn.bias and ffn.experts is None:
        sizes |= {"b_gate": ffn.d_ff} if ffn.gated else {}
        sizes |= {"b_up": ffn.d_ff, "b_down": d_model}
    for norm in ("attn_norm", "ffn_norm"):
        sizes |= {f"{norm}_after": d_model} if spec.norm_after else {}
        if spec.norm.bias:
            sizes |= {f"{norm}_bias": d_model} if spec.norm_before else {}
            sizes |= {f"{norm}_after_bias": d_model} if spec.norm_after else {}
    return {name: (size,) for name, size in sizes.items()}


def _attention_sizes(d_model: int, attention: AttentionSpec) -> dict[str, int]:
    """Values of attention's vectors."""
    sizes: dict[str, int] = {}
    if attention.qkv_bias:
        sizes |= {"bq": attention.q_dim, "bk": attention.kv_dim, "bv": attention.kv_dim}
    if attention.o_bias:
        sizes["bo"] = d_model
    if attention.qk_norm is not None:
        whole, head_dim = attention.qk_norm_whole, attention.head_dim
        sizes["q_norm"] = attention.q_dim if whole else head_dim
        sizes["k_norm"] = attention.kv_dim if whole else head_dim
    if attention.sinks:
        sizes["sinks"] = attention.n_heads
    return sizes


def _expert_biases(d_model: int, ffn: FeedForwardSpec) -> dict[str, Shape]:
    """Of a layer with experts: the biases of each, one row an expert."""
    if ffn.experts is None or not ffn.bias:
        return {}
    names = (*ffn.inputs, ffn.output)
    widths = (ffn.d_ff,) * len(ffn.inputs) + (d_model,)
    return {
        f"b{name[1:]}": (ffn.experts.n_experts, width)
        for name, width in zip(names, widths, strict=True)
    }


def is_matrix(name: str) -> bool:
    """Whether the weight of that canonical name is one that a product reads, or an embedding:
    formats are chosen for these.  The biases of experts have two dimensions, and are none."""
    last = name.rpartition(".")[2]
    return last.startswith("w") or last in ("token_embd", "position_embd", "output")


def template_of(name: str) -> tuple[str, int | None]:
    """("layers.{i}.wq", 3) of "layers.3.wq"; (name, None) of what belongs to no layer."""
    first, _, rest = name.partition(".")
    if first != "layers":
        return name, None
    layer, _, last = rest.partition(".")
    return f"layers.{{i}}.{last}", int(layer)


def name_in_file(names: Mapping[str, str], name: str) -> str:
    """What a file with these names (Family.hf_tensors, gguf_tensors) calls a canonical name; {e}
    stays in it where each expert has a tensor of its own."""
    template, layer = template_of(name)
    return names[template].format(i=layer, e="{e}")
