"""Rewards for `rl`: functions of a completion's text, or a reward model.

A reward is called as trl calls it, reward(prompts=[...], completions=[...], ...), and gives a
number for each completion.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.train.base_model import context_of, loaded
from pyroclast.train.extra import needed

Reward = Callable[..., list[float]]

FUNCTIONS = "length:N (N words), word:TEXT (contains it), json (is valid JSON)"
_SCORED_AT_ONCE = 16
_MAX_DIGITS = 9  # of a number of words


def as_reward(reward: str | Path | Reward) -> Reward:
    """The function of a name, the reward model of a folder, or the callable itself."""
    if callable(reward):
        return _checked(reward)
    name, _, value = str(reward).partition(":")
    if name == "length" and value:
        return _of_each(f"length_{value}", _length(value))
    if name == "word" and value:
        return _of_each("word", lambda text: float(value.lower() in text.lower()))
    if str(reward) == "json":
        return _of_each("json", _is_json)
    if reward and Path(reward).is_dir():
        return reward_model(Path(reward))
    raise TrainingError(
        f"the reward must be {FUNCTIONS}, or the folder of a reward model; got {str(reward)!r}"
    )


def scored(
    reward: Reward,
    prompts: Sequence[Any],
    texts: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
) -> list[float]:
    """The rewards of answers, as trl asks for them: each is text or messages, as its prompt is."""
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return reward(
        prompts=list(prompts), completions=completions, completion_ids=list(completion_ids)
    )


def texts_of(completions: Sequence[Any]) -> list[str]:
    """The text of each completion, which trl gives as a string or as a list of messages."""
    return [each if isinstance(each, str) else each[-1]["content"] for each in completions]


def reward_model(folder: Path, max_tokens: int = sys.maxsize) -> Reward:
    """The reward model of a folder: a number for prompt and completion together, read as they were
    when it was trained, and cut to max_tokens and to its context."""
    torch = needed("torch")
    model = loaded("AutoModelForSequenceClassification", folder).eval()
    tokenizer = loaded("AutoTokenizer", folder)
    if model.config.num_labels != 1 or model.config.pad_token_id is None:
        raise TrainingError(f"{folder}: no reward model; `pyroclast train reward` writes one")

    limit, fill = min(max_tokens, context_of(folder)), torch.nn.utils.rnn.pad_sequence

    def score(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        rows = [torch.tensor(conversation_ids(p, c, tokenizer)[:limit]) for p, c in pairs]
        found: list[float] = []
        for i in range(0, len(rows), _SCORED_AT_ONCE):
            some = rows[i : i + _SCORED_AT_ONCE]
            ids = fill(some, batch_first=True, padding_value=model.config.pad_token_id)
            mask = fill([torch.ones_like(row) for row in some], batch_first=True)
            with torch.no_grad():
                logits = model(ids, attention_mask=mask).logits
            found += logits[:, 0].tolist()
        return found

    score.__name__ = "reward_model"
    return score


def conversation(prompt: Any, completion: Any, tokenizer: Any) -> str:
    """Prompt and completion as one text, by the model's template where they are messages."""
    if isinstance(prompt, str):
        return prompt + texts_of([completion])[0]
    messages = [*prompt, {"role": "assistant", "content": texts_of([completion])[0]}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def conversation_ids(prompt: Any, completion: Any, tokenizer: Any) -> list[int]:
    """The same as the tokens on which trl trains a reward model: text with the token that ends it,
    messages with the special tokens that their template writes, and no others."""
    text, is_text = conversation(prompt, completion, tokenizer), isinstance(prompt, str)
    end = tokenizer.eos_token or ""
    if is_text and not text.endswith(end):
        text += end
    return list(tokenizer(text, add_special_tokens=is_text)["input_ids"])


def _checked(reward: Reward) -> Reward:
    """A user's function; TrainingError unless it gives finite numbers."""
    name = getattr(reward, "__name__", type(reward).__name__)

    def score(**batch: Any) -> list[float]:
        found = [float(each) for each in reward(**batch)]
        if len(found) != len(batch["completions"]) or not all(map(math.isfinite, found)):
            raise TrainingError(
                f"the reward {name} must give a finite number for each of "
                f"{len(batch['completions'])} completions, got {str(found)[:80]}"
            )
        return found

    score.__name__ = name
    return score


def _of_each(name: str, function: Callable[[str], float]) -> Reward:
    def score(completions: Sequence[Any], **_: Any) -> list[float]:
        return [function(text) for text in texts_of(completions)]

    score.__name__ = name
    return score


def _length(value: str) -> Callable[[str], float]:
    """0 for as many words as asked for; less by the share that is missing or too much."""
    if not value.isdecimal() or len(value) > _MAX_DIGITS or int(value) < 1:
        raise TrainingError(
            f"length: needs a number of words, such as length:20; got {value!r:.40}"
        )
    wanted = int(value)
    return lambda text: -abs(len(text.split()) - wanted) / wanted


def _is_json(text: str) -> float:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # a model may well write a thousand brackets
        return 0.0
    return 1.0


def _refuse(constant: str) -> None:
    """NaN and infinities, which Python reads, are no JSON."""
    raise ValueError(constant)
