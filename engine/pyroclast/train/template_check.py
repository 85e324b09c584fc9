"""Whether a model's chat template can write the prompts of a file, before a run begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.errors import TemplateError, TrainingError
from pyroclast.train.prompts import Prompt
from pyroclast.train.rollouts import encoded

UNMARKED = (
    "the model's template does not mark where an answer begins: what it writes before an answer "
    "differs from what it writes with it; give prompts that are text"
)


def check_template(prompts: Sequence[Prompt], tokenizer: Any, path: str | Path) -> None:
    """TemplateError for prompts that are messages, where the tokenizer has no template or its
    template refuses them."""
    if tokenizer.chat_template is None and not all(isinstance(each, str) for each in prompts):
        raise TemplateError(
            f"{path}: has prompts that are messages, but the model has no chat template; give "
            "prompts that are text"
        )
    for number, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, str):
            _written(prompt, tokenizer, f"{path}, prompt {number}", asks=False)


def check_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, path: str | Path, *, context: int, max_tokens: int
) -> None:
    """The same, and TemplateError for a template that does not mark where an answer begins;
    TrainingError for a prompt that leaves no room in the context for an answer of max_tokens."""
    check_template(prompts, tokenizer, path)
    for number, prompt in enumerate(prompts, 1):
        place = f"{path}, prompt {number}"
        if not isinstance(prompt, str):
            asked = _written(prompt, tokenizer, place, asks=True)
            if asked == _written(prompt, tokenizer, place, asks=False):
                raise TemplateError(f"{place}: {UNMARKED}")
        n_tokens = len(encoded(prompt, tokenizer))
        if n_tokens + max_tokens > context:
            raise TrainingError(
                f"{place}: has {n_tokens} tokens, and an answer may have {max_tokens}, but the "
                f"model's context holds {context}; shorten it or lower max_tokens"
            )


def _written(prompt: Any, tokenizer: Any, place: str, *, asks: bool) -> str:
    try:
        write = tokenizer.apply_chat_template
        return str(write(prompt, tokenize=False, add_generation_prompt=asks))
    except Exception as error:  # a template may raise anything
        if isinstance(error, MemoryError):
            raise
        raise TemplateError(f"{place}: {error}") from error
