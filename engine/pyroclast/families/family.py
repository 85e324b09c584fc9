"""What a family is: data that says how files name its sizes and its weights, and its layers.

Each family is described in a file beside this one (llama.py, gemma.py, ...) and has an entry
in `registry`.  Other projects' names for tensors and settings belong in this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters

# Tensors that carry nothing the forward pass needs: frequencies that follow from the config.
# Those of GGUF are read with the config; GPT-2's folders keep their causal mask; input_scale is for
# kernels that round activations to FP4.
IGNORED_TENSOR_SUFFIXES = (
    "rotary_emb.inv_freq",
    "attn_rot_embd.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    ".attn.bias",
    ".attn.masked_bias",
    ".input_scale",
)


@dataclass(frozen=True)
class Family:
    """One family: how files of both formats name it, its sizes and its weights.

    config makes the ModelConfig of what a file says.  hf_tensors and gguf_tensors: canonical name
    -> the file's, {i} being the layer.  hf_keys and gguf_keys: field of Hyperparameters, or name
    in its `extra` -> key of config.json, or key of a GGUF's metadata after the architecture's
    name.  hf_rope_keys are keys among the rope parameters of config.json; hf_rope_carried are those
    that change nothing here, and that GGUF files have.  hf_defaults and
    gguf_defaults are the values that a file may leave out; hf_allowed the values that an option of
    config.json may have; hf_renamed: key of a newer release -> the one in hf_keys.  hf_window_key,
    if any, is a switch without which config.json's sliding_window does not count.
    hf_partial_rotary: the family reads partial_rotary_factor; hf_rotary_factor is its default.
    is_recurrent: some layers have a state in place of attention; GGUF files may give them no heads
    of keys.  hf_d_ff_ratio is d_ff over d_model where config.json leaves d_ff out.
    gguf_architecture None: GGUF files write it as another family.  gguf_paired lists the tensors
    whose rows GGUF files order for rotary pairs (2i, 2i + 1); ours, and Hugging Face's, are (i, i +
    rotary_dim / 2).
    gguf_of_layers and hf_of_layers list the fields that a GGUF file, and a config.json, may give
    for each layer.
    hf_fused and gguf_fused: the file's name of a tensor ({i} being the layer) -> the weights of
    that layer whose rows it holds one below the other, as ("wq", "wk", "wv"); of a stack of
    experts, in each matrix.  Where hf_tensors has {e}, each expert has a tensor.  hf_transposed
    lists the weights that a folder stores (in, out), hf_alternating those whose rows take turns
    in a fused tensor instead; by_head those whose heads do, in both formats.
    hf_quantizations are the methods of quantization_config that it reads.
    hf_condition: of families that share a model_type, whether a config.json is of this one; the
    first that says so counts.  gguf_flat lists the vectors that GGUF files have as matrices.
    parts_alone: each layer is a mixer or a feed-forward alone; of the former GGUF files say a
    width of 0, of both but attention no heads of keys.
    """

    name: str
    config: Callable[[Hyperparameters], ModelConfig]
    hf_model_type: str
    gguf_architecture: str | None
    hf_tensors: Mapping[str, str]
    gguf_tensors: Mapping[str, str]
    hf_keys: Mapping[str, str]
    gguf_keys: Mapping[str, str]
    gguf_paired: frozenset[str] = frozenset()
    gguf_of_layers: frozenset[str] = frozenset()
    hf_of_layers: frozenset[str] = frozenset()
    hf_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gguf_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hf_transposed: frozenset[str] = frozenset()
    hf_alternating: frozenset[str] = frozenset()
    by_head: frozenset[str] = frozenset()
    hf_quantizations: frozenset[str] = frozenset()
    hf_defaults: Mapping[str, Any] = field(default_factory=dict)
    gguf_defaults: Mapping[str, Any] = field(default_factory=dict)
    hf_rope_keys: Mapping[str, str] = field(default_factory=dict)
    hf_rope_carried: Mapping[str, str] = field(default_factory=dict)
    hf_partial_rotary: bool = False
    hf_rotary_factor: float | None = None
    hf_d_ff_ratio: int | None = None
    hf_allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hf_renamed: Mapping[str, str] = field(default_factory=dict)
    hf_window_key: str | None = None
    is_recurrent: bool = False
    parts_alone: bool = False
    hf_condition: Callable[[Mapping[str, Any]], bool] | None = None
    gguf_flat: frozenset[str] = frozenset()
