"""Examples to imitate: read from JSONL, checked, and encoded with a loss on answers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.errors import RequestError, TemplateError, TrainingError
from pyroclast.lab.evaluate.tasks import Item
from pyroclast.train.json_lines import read_json_lines

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

NO_LOSS = -100
_SHAPES = (
    '{"prompt": ..., "completion": ...} or {"messages": [..., {"role": "assistant", "content": '
    "...}]}"
)
Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A prompt with its completion, as plain text, or a conversation that ends with an answer."""

    place: str  # of the file, for errors
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()

    def item(self) -> Item:
        """What is asked, and the answer that is right."""
        if not self.messages:
            return Item(self.place, "match", prompt=self.prompt, answers=(self.completion,))
        *asked, answer = self.messages
        return Item(self.place, "match", messages=asked, answers=(answer["content"],))


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the label of each: the id itself in an answer, else NO_LOSS."""

    ids: list[int]
    labels: list[int]

    @property
    def n_prompt(self) -> int:
        """Tokens before the last answer."""
        return max(i for i, label in enumerate([NO_LOSS, *self.labels]) if label == NO_LOSS)


def read_examples(path: str | Path) -> list[Example]:
    """Every line of a file; TrainingError names the first that is no example."""
    found = [example_of(value, place) for place, value in read_json_lines(path)]
    if not found:
        raise TrainingError(f"{path}: holds no examples; a line is {_SHAPES}")
    return found


def example_of(value: dict[str, Any], place: str) -> Example:
    """The example in one JSON object."""
    if set(value) == {"prompt", "completion"}:
        for key in ("prompt", "completion"):
            if not isinstance(value[key], str) or not value[key]:
                raise TrainingError(f"{place}: {key} must be a text that is not empty")
        return Example(place, value["prompt"], value["completion"])
    if set(value) != {"messages"}:
        keys = ", ".join(map(repr, value)) or "none"
        raise TrainingError(f"{place}: its keys are {keys}; a line is {_SHAPES}")
    messages = value["messages"]
    is_list = isinstance(messages, list) and all(isinstance(each, dict) for each in messages)
    if not is_list or len(messages) < 2:
        raise TrainingError(f"{place}: messages must be a list of at least two messages")
    if not all(isinstance(each.get(key), str) for each in messages for key in ("role", "content")):
        raise TrainingError(f"{place}: role and content of each message must be texts")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
        raise TrainingError(f"{place}: the last message must be an answer of role 'assistant'")
    return Example(place, messages=tuple(messages))


def encode(tokenizer: Tokenizer, example: Example, max_tokens: int) -> Encoded:
    """An example as the model will see it when it is asked: prompts as `LLM.generate` encodes them,
    conversations as `LLM.chat` does."""
    pieces = _turns(tokenizer, example) if example.messages else _plain(tokenizer, example)
    ids: list[int] = []
    labels: list[int] = []
    for piece, is_answer in pieces:
        ids += piece
        labels += piece if is_answer else [NO_LOSS] * len(piece)
    if len(ids) > max_tokens:
        raise TrainingError(
            f"{example.place}: has {len(ids)} tokens, more than max_tokens ({max_tokens}); shorten "
            "it or raise max_tokens"
        )
    return Encoded(ids, labels)


def _plain(tokenizer: Tokenizer, example: Example) -> list[tuple[list[int], bool]]:
    prompt = tokenizer.encode(example.prompt)
    answer = tokenizer.encode(example.completion, add_special_tokens=False)
    return [(prompt, False), (answer + sorted(tokenizer.eos_token_ids)[:1], True)]


def _turns(tokenizer: Tokenizer, example: Example) -> list[tuple[list[int], bool]]:
    """What the template writes, cut where each answer begins and ends."""
    if tokenizer.chat_template is None:
        raise TemplateError(
            f'{example.place}: has messages, but the model has no chat template; give "prompt" and '
            '"completion" instead'
        )
    pieces: list[tuple[list[int], bool]] = []
    done: list[int] = []
    for i, message in enumerate(example.messages):
        if message.get("role") != "assistant":
            continue
        asked = _written(tokenizer, example, i, asks=True)
        bare = _written(tokenizer, example, i, asks=False)
        whole = _written(tokenizer, example, i + 1, asks=False)
        if asked == bare or whole[: len(asked)] != asked or asked[: len(done)] != done:
            raise TemplateError(
                f"{example.place}: the model's template does not mark where an answer begins: what "
                "it writes before an answer differs from what it writes with it; give "
                '"prompt" and "completion" instead'
            )
        answer = whole[len(asked) :]
        ends = [at for at, token in enumerate(answer) if token in tokenizer.eos_token_ids]
        last = ends[-1] + 1 if ends else len(answer)  # a line break after it is the template's
        pieces += [(asked[len(done) :], False), (answer[:last], True)]
        done = asked + answer[:last]
    return pieces


def _written(tokenizer: Tokenizer, example: Example, n: int, *, asks: bool) -> list[int]:
    """What the template makes of the first n messages."""
    try:
        return tokenizer.encode_chat(example.messages[:n], add_generation_prompt=asks)
    except (RequestError, TemplateError) as error:  # an unknown role, a template that fails
        raise TemplateError(f"{example.place}: {error}") from error


def check_context(
    encoded: Sequence[Encoded], examples: Sequence[Example], n_answer: int, context: int
) -> None:
    """TrainingError for an example that the model's context does not hold with an answer of
    n_answer tokens in place of its own; 0: with its own."""
    for each, example in zip(encoded, examples, strict=True):
        n_tokens = each.n_prompt + n_answer if n_answer else len(each.ids)
        if n_tokens > context:
            what = f"with an answer of up to {n_answer}, the longest," if n_answer else "it"
            raise TrainingError(
                f"{example.place}: {what} has {n_tokens} tokens, and the model's context holds "
                f"{context}; shorten it or leave it out"
            )


def longest_answer(encoded: Sequence[Encoded]) -> int:
    """Tokens of the longest answer."""
    return max(sum(label != NO_LOSS for label in each.labels) for each in encoded)
