"""The weights of a model by canonical name, their shapes, and their names in a file."""

from __future__ import annotations

from collections.abc import Mapping

from pyroclast.families.config import ModelConfig
from pyroclast.families.draft_head import draft_shapes
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec

Shape = tuple[int, ...]
# Of experts with norms of their own: see ExpertsSpec.
_EXPERT_NORMS = ("router_norm", "experts_norm", "experts_norm_after", "shared_norm_after")


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
    if (given := config.layer_input) is not None:
        n_values = config.n_layers * given.width
        shapes["layer_embd"] = (given.n_rows, n_values)
        shapes["w_layer_inputs"] = (n_values, config.d_model)
        shapes["layer_input_norm"] = (given.width,)
    others = () if config.streams is None else config.streams.others
    for way in ("in", "out"):
        shapes |= {f"w_stream_{way}_{j}": (config.d_model, config.d_model) for j in others}
    for i, spec in enumerate(config.all_layers):
        layer = _usual_shapes(config.d_model, spec) | _more_vectors(config.d_model, spec)
        layer |= {} if spec.ffn is None else _expert_biases(config.d_model, spec.ffn)
        layer |= _layer_input(config) | ({"out_scale": (1,)} if spec.out_scale else {})
        layer |= _streams(config) | _laurel(config.d_model, spec)
        layer |= draft_shapes(config) if i == config.n_layers else {}
        for name, shape in layer.items():
            shapes[f"layers.{i}.{name}"] = shape
    return shapes


def _layer_input(config: ModelConfig) -> dict[str, Shape]:
    """Of a layer: the weights by which it is told of the token itself."""
    if (given := config.layer_input) is None:
        return {}
    return {
        "w_input_gate": (given.width, config.d_model),
        "w_input": (config.d_model, given.width),
        "input_norm_after": (config.d_model,),
    }


def _streams(config: ModelConfig) -> dict[str, Shape]:
    """Of a layer: what predicts and corrects residual streams."""
    if (streams := config.streams) is None:
        return {}
    n, d_model = streams.n, config.d_model
    return {
        "altup_router_norm": (d_model,),
        "altup_router": (n, d_model),
        "altup_predict": (n * n, n),
        "altup_correct": (n, n),
    } | ({"altup_scale": (d_model,)} if streams.scales else {})


def _laurel(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: the products beside its mixer."""
    if (rank := spec.laurel_rank) is None:
        return {}
    return {
        "w_laurel_in": (rank, d_model),
        "w_laurel_out": (d_model, rank),
        "laurel_norm": (d_model,),
    }


def _usual_shapes(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: its products, and the norms before them."""
    shapes: dict[str, Shape] = {}
    before_mixer, before_ffn = spec.norms
    norm: dict[str, Shape] = {before_mixer: (d_model,)} if spec.norm_before else {}
    if spec.mixer is not None:
        shapes |= norm | _mixer_shapes(d_model, spec)
    if spec.ffn is not None:
        norm = {before_ffn: (d_model,)} if spec.norm_before else {}
        shapes |= norm | _ffn_shapes(d_model, spec.ffn)
    return shapes


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
    shapes = {name: shape for name, shape in shapes.items() if name in (*attention.inputs, "wo")}
    return shapes | ({"w_q_gate": (attention.q_dim, d_model)} if attention.gate else {})


def _ffn_shapes(d_model: int, ffn: FeedForwardSpec) -> dict[str, Shape]:
    """Of a feed-forward: its products, those of experts once for each, and its router."""
    found: dict[str, Shape] = {}
    if d_ff := ffn.dense_d_ff:
        found |= dict.fromkeys(ffn.inputs, (d_ff, d_model)) | {"w_down": (d_model, d_ff)}
    if (experts := ffn.experts) is None:
        return found
    n = experts.n_experts
    found |= {f"{name}_experts": (n, ffn.d_ff, d_model) for name in ffn.inputs}
    return found | {"w_down_experts": (n, d_model, ffn.d_ff), "w_router": (n, d_model)}


def _more_vectors(d_model: int, spec: LayerSpec) -> dict[str, Shape]:
    """Of a layer: biases, norms after blocks and of q and k, sinks."""
    sizes = _attention_sizes(d_model, spec.attention) if spec.has_attention else {}
    if (experts := spec.experts) is not None:
        sizes |= {"b_router": experts.n_experts} if experts.router_bias else {}
        sizes |= {"b_selection": experts.n_experts} if experts.selection_bias else {}
        sizes |= {"gate_scales": experts.n_experts} if experts.gate_scales else {}
        sizes |= dict.fromkeys(_EXPERT_NORMS, d_model) if experts.own_norms else {}
    elif spec.ffn is not None and spec.ffn.bias:
        sizes |= {f"b{name[1:]}": spec.ffn.d_ff for name in spec.ffn.inputs} | {"b_down": d_model}
    parts = zip(spec.norms, (spec.mixer, spec.ffn), strict=True)
    for norm in (name for name, part in parts if part is not None):
        sizes |= {f"{norm}_after": d_model} if spec.norm_after else {}
        if spec.norm.bias:
            sizes |= {f"{norm}_bias": d_model} if spec.norm_before else {}
            sizes |= {f"{norm}_after_bias": d_model} if spec.norm_after else {}
    return {name: (size,) for name, size in sizes.items()}


def _attention_sizes(d_model: int, attention: AttentionSpec) -> dict[str, int]:
    """Values of attention's vectors."""
    sizes: dict[str, int] = {}
    if attention.qkv_bias:
        biases = {"bq": attention.q_dim, "bk": attention.kv_dim, "bv": attention.kv_dim}
        sizes |= {f"b{name[1:]}": biases[f"b{name[1:]}"] for name in attention.inputs}
    if attention.o_bias:
        sizes["bo"] = d_model
    if attention.qk_norm is not None:
        whole, head_dim = attention.qk_norm_whole, attention.head_dim
        sizes["q_norm"] = attention.q_dim if whole else head_dim
        if attention.cache_layer is None:
            sizes["k_norm"] = attention.kv_dim if whole else head_dim
    if attention.sinks:
        sizes["sinks"] = attention.n_heads
    return sizes


def _expert_biases(d_model: int, ffn: FeedForwardSpec) -> dict[str, Shape]:
    """Of a layer with experts: the biases of each, one row an expert."""
    if ffn.experts is None or not ffn.bias:
        return {}
    names = (*ffn.inputs, "w_down")
    widths = (ffn.d_ff,) * len(ffn.inputs) + (d_model,)
    return {
        f"b{name[1:]}_experts": (ffn.experts.n_experts, width)
        for name, width in zip(names, widths, strict=True)
    }


def is_matrix(name: str) -> bool:
    """Whether the weight of that canonical name is one that a product reads, or an embedding:
    formats are chosen for these.  The biases of experts and the coefficients of residual streams
    have two dimensions, and are none."""
    last = name.rpartition(".")[2]
    return last.startswith("w") or last in ("token_embd", "position_embd", "layer_embd", "output")


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
