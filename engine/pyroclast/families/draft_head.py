"""A head that predicts further tokens (multi-token prediction, Qwen3.5): what it is made of.

At each position it reads the token there, and the model's final state of the position before, which
the final norm has normed:

    x = w_draft_embd @ norm(embedding of the token) + w_draft_hidden @ norm(state before)

x passes through one layer with attention, over its own keys and values of all positions before, and
a norm of its own.  The model's output head makes logits of that: they predict the token behind.  A
further token is predicted from the first one, with the head's own normed state in place of the
model's.  At a text's first position there is no state before: zeros stand for it.

Sources: DeepSeek-V3 (2024), section 2.2, with one layer for all depths; which state Qwen3.5's head
takes is measured in llama.cpp's pull request 24025.
"""

from __future__ import annotations

from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family

# Weights of its layer, beside those that every layer of that kind has.  Files have the two products
# side by side, as one matrix that multiplies both.
PRODUCTS = ("w_draft_embd", "w_draft_hidden")
NORMS = ("draft_embd_norm", "draft_hidden_norm", "draft_output_norm")
# What a folder's names of its tensors begin with.
HF_PREFIX = "mtp."


def draft_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of its layer: the weights that no other layer has."""
    if config.draft_layer is None:
        return {}
    d_model = config.d_model
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(PRODUCTS, (d_model, d_model))
    return shapes | dict.fromkeys(NORMS, (d_model,))


def has_draft_heads(family: Family) -> bool:
    """Whether files of the family may have such a head, and Pyroclast reads it."""
    return PRODUCTS in family.gguf_fused.values()
