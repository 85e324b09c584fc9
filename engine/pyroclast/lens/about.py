"""What a page has to know of a model before it asks for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyroclast.lens.inside import attention_of, model_of
from pyroclast.lens.variants import choices

if TYPE_CHECKING:
    from pyroclast.llm import LLM

# Probabilities of attention grow with the square of the length.
MAX_TOKENS_ATTENTION = 256
# What one answer to the page may hold of them; beyond it the page asks for fewer layers.
MAX_BYTES_ATTENTION = 16 << 20


def facts(llm: LLM) -> dict[str, Any]:
    """The sizes of the model, and what its tokenizer and its views can do.  Heads are those of the
    first layer with attention."""
    config, tokenizer = model_of(llm).config, llm.tokenizer
    attention = next(iter(attention_of(model_of(llm)).values()), {})
    return {
        "family": config.family,
        "n_layers": config.n_layers,
        "n_heads": attention.get("n_heads", 0),
        "n_kv_heads": attention.get("n_kv_heads", 0),
        "head_dim": attention.get("head_dim", 0),
        "d_model": config.d_model,
        "vocab_size": llm.vocab_size,
        "max_seq_len": llm.max_seq_len,
        "max_tokens_attention": min(MAX_TOKENS_ATTENTION, llm.max_seq_len),
        "max_bytes_attention": MAX_BYTES_ATTENTION,
        "has_template": tokenizer.chat_template is not None,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": sorted(tokenizer.eos_token_ids),
        "can_embed": llm.embeddings,
        "device": llm.device,
        "adapters": list(llm.adapters),
        "variants": choices(llm),
    }
