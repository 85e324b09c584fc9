"""What a family is: data that says how files name its sizes and its weights, and its layers.

Each family is described in a file beside this one (llama.py, mistral.py, qwen.py) and has an entry
in `registry`.  Other projects' names for tensors and settings belong in this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters

# Tensors that carry nothing the forward pass needs: frequencies that follow from the config.
IGNORED_TENSOR_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", "rope_freqs.weight")
GGUF_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """One family: how files of both formats name it, its sizes and its weights.

    config makes the ModelConfig of what a file says.  hf_tensors and gguf_tensors: canonical name
    -> the file's, {i} being the layer.  hf_keys and gguf_keys: field of Hyperparameters, or name
    in its `extra` -> key of config.json, or key of a GGUF's metadata after the architecture's
    name.  hf_defaults are the values that config.json may leave out; hf_allowed the values that an
    option of it may have.  hf_window_key, if any, is a switch without which config.json's
    sliding_window does not count.  gguf_architecture None: GGUF files write it as another family.
    gguf_paired lists the tensors whose rows GGUF files order for rotary pairs (2i, 2i + 1); ours,
    and Hugging Face's, are (i, i + rotary_dim / 2).  hf_fused and gguf_fused: the file's name of a
    tensor ({i} being the layer) -> the weights of that layer whose rows it holds one below the
    other, as ("wq", "wk", "wv").  hf_transposed lists the weights that a folder stores (in, out).
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
    hf_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gguf_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hf_transposed: frozenset[str] = frozenset()
    hf_defaults: Mapping[str, Any] = field(default_factory=dict)
    hf_allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hf_window_key: str | None = None
