"""Models from random weights: the shapes of Llama and GPT-2 in any size, and loading and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.train.extra import needed
from pyroclast.train.settings import PretrainSettings

_LLAMA_FEED_FORWARD = 8 / 3  # of the width, as three matrices cost what GPT-2's two of 4 cost
_MULTIPLE = 32


def random_model(settings: PretrainSettings, vocab_size: int, end_of_text: int) -> Any:
    """A transformers model in float32; the seed decides its weights."""
    if settings.width % (2 * settings.heads):
        raise TrainingError(
            f"width must be an even multiple of heads, got {settings.width} and {settings.heads}: "
            f"try {-(-settings.width // (2 * settings.heads)) * 2 * settings.heads}"
        )
    torch, transformers = needed("torch"), needed("transformers")
    torch.manual_seed(settings.seed)
    make = _llama if settings.shape == "llama" else _gpt2
    config = make(transformers, settings, vocab_size)
    config.bos_token_id = config.eos_token_id = end_of_text
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _llama(transformers: Any, settings: PretrainSettings, vocab_size: int) -> Any:
    d_ff = round(settings.width * _LLAMA_FEED_FORWARD / _MULTIPLE) * _MULTIPLE
    return transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=settings.width,
        intermediate_size=max(_MULTIPLE, d_ff),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        attention_dropout=settings.dropout,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )


def _gpt2(transformers: Any, settings: PretrainSettings, vocab_size: int) -> Any:
    return transformers.GPT2Config(
        vocab_size=vocab_size,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        n_positions=settings.context,
        embd_pdrop=settings.dropout,
        resid_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        tie_word_embeddings=True,
    )


def n_parameters(model: Any) -> int:
    """How many numbers are trained."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def save_model(model: Any, files: dict[str, str], folder: Path) -> None:
    """Writes a model and its tokenizer's files (name -> text) into an existing folder."""
    transformers_quietly()
    model.save_pretrained(folder)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def transformers_quietly() -> Any:
    """transformers, without bars and advice on the terminal, where ours stands."""
    transformers = needed("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers
