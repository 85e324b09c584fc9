"""Pairs of answers as token ids: what `prefer` measures and `reward` learns from, and whether it
can be read at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import TemplateError, TrainingError
from pyroclast.train.rewards import conversation, conversation_ids
from pyroclast.train.template_check import UNMARKED


@dataclass(frozen=True)
class Encoded:
    """A pair of answers to a prompt."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def reward_row(
    tokenizer: Any, max_tokens: int, path: str | Path, number: int, row: dict[str, Any]
) -> dict[str, list[int]]:
    """A pair as trl trains a reward model on it, cut to max_tokens; trl by itself would leave out
    those that are longer.  TrainingError where the cut leaves two equal answers."""
    try:
        chosen, rejected = (
            conversation_ids(row["prompt"], row[side], tokenizer) for side in ("chosen", "rejected")
        )
    except Exception as error:  # a template may raise anything
        if isinstance(error, MemoryError):
            raise
        raise TemplateError(f"{path}, pair {number}: {error}") from error
    found = {"chosen_ids": chosen[:max_tokens], "rejected_ids": rejected[:max_tokens]}
    if chosen != rejected and found["chosen_ids"] == found["rejected_ids"]:
        raise TrainingError(
            f"{path}, pair {number}: its answers are the same in the {max_tokens} tokens of prompt "
            "and answer that are read; shorten its prompt or raise max_tokens"
        )
    return found


class PairTokens:
    """Encodes pairs as trl does: text with the token that ends it, messages by the template, both
    cut to max_tokens.  path: of their file, for errors."""

    def __init__(self, tokenizer: Any, max_tokens: int, path: str | Path) -> None:
        self._tokenizer, self._max_tokens, self._path = tokenizer, max_tokens, path

    def of(self, number: int, row: dict[str, Any]) -> Encoded:
        """A pair.  TrainingError where its prompt leaves no room for an answer; TemplateError where
        the template does not say where an answer begins."""
        try:
            prompt = self._prompt(row["prompt"])
            answers = [self._answer(row["prompt"], prompt, row[s]) for s in ("chosen", "rejected")]
        except Exception as error:  # a template may raise anything
            if isinstance(error, MemoryError):
                raise
            raise TemplateError(f"{self._path}, pair {number}: {error}") from error
        ids = self._tokenizer(prompt, add_special_tokens=isinstance(row["prompt"], str))
        n_prompt = len(ids["input_ids"])
        if n_prompt >= self._max_tokens:
            raise TrainingError(
                f"{self._path}, pair {number}: its prompt has {n_prompt} tokens, and prompt and "
                f"answer may have {self._max_tokens}; shorten it or raise max_tokens"
            )
        room = self._max_tokens - n_prompt
        chosen, rejected = (
            self._tokenizer(each, add_special_tokens=False)["input_ids"][:room] for each in answers
        )
        return Encoded(list(ids["input_ids"]), list(chosen), list(rejected))

    def _prompt(self, prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        asked, bare = (
            str(
                self._tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=b)
            )
            for b in (True, False)
        )
        if asked == bare:
            raise ValueError(UNMARKED)
        return asked

    def _answer(self, prompt: Any, written: str, answer: Any) -> str:
        """The answer as it follows the prompt that is written already."""
        whole, end = conversation(prompt, answer, self._tokenizer), self._tokenizer.eos_token
        if not whole.startswith(written):
            raise ValueError(UNMARKED)
        if isinstance(prompt, str) and not whole.endswith(end):
            whole += end
        return whole[len(written) :]
