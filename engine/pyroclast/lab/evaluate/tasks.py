"""The items of a task: one JSON object a line, all of them checked before a model is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import PyroclastError, RequestError
from pyroclast.lab.batch.requests import MAX_LINE_BYTES, parse_line

MAX_CHOICES = 1024
MAX_PATTERN_CHARS = 4096
_SHAPES = (
    '{"context": ..., "choices": [...], "answer": 0}, {"prompt": ..., "answer": ...}, '
    '{"prompt": ..., "regex": ...} or {"text": ...}; "messages" may stand for "prompt"'
)


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a task.

    kind "choices": which of `choices` is the likeliest after `context`; `answers` holds the index
    of the right one.  "match": the generated text is one of `answers`.  "regex": `pattern` is found
    in it.  "text": how surprised the model is by `text`."""

    id: str
    kind: str
    context: str = ""
    choices: tuple[str, ...] = ()
    answers: tuple[int | str, ...] = ()
    pattern: str = ""
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    text: str = ""


def read_task(path: Path) -> list[Item]:
    """The items of a file.  RequestError names the first line that is none, or has an id for the
    second time."""
    found: dict[str, Item] = {}
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if not data.strip():
                    continue
                try:
                    item = _item(data, number)
                except PyroclastError as error:
                    raise RequestError(f"{path}, line {number}: {error}") from error
                if found.setdefault(item.id, item) is not item:
                    raise RequestError(
                        f"{path}, line {number}: the id {item.id!r} was given already; each item "
                        "needs its own"
                    )
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise RequestError(f"{path}: holds no items; a line is {_SHAPES}")
    return list(found.values())


def _item(data: bytes, number: int) -> Item:
    value = parse_line(data)
    name = value.pop("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise RequestError(f"id must be text or a whole number, got {json.dumps(name)[:80]}")
    make = _MAKERS.get(frozenset(value))
    if make is None:
        raise RequestError(
            f"its keys are {', '.join(map(repr, value)) or 'none'}; a line is {_SHAPES}"
        )
    return make(str(name), value)


def _choices(name: str, value: dict[str, Any]) -> Item:
    choices, answer = value["choices"], value["answer"]
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= MAX_CHOICES
        or not all(isinstance(each, str) and each for each in choices)
    ):
        raise RequestError(f"choices must be 2 to {MAX_CHOICES} texts, none of them empty")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise RequestError(
            f"answer must be one of the choices, or its index from 0 to {len(choices) - 1}; got "
            f"{json.dumps(answer)[:80]}"
        )
    context = _text(value, "context")
    return Item(name, "choices", context=context, choices=tuple(choices), answers=(answer,))


def _match(name: str, value: dict[str, Any]) -> Item:
    answer = value["answer"]
    answers = answer if isinstance(answer, list) else [answer]
    if not answers or not all(isinstance(each, str) for each in answers):
        raise RequestError("answer must be a text or a list of texts that are right")
    return Item(name, "match", answers=tuple(answers), **_asked(value))


def _regex(name: str, value: dict[str, Any]) -> Item:
    pattern = _text(value, "regex")
    if len(pattern) > MAX_PATTERN_CHARS:
        raise RequestError(f"regex has {len(pattern)} characters; at most {MAX_PATTERN_CHARS}")
    return Item(name, "regex", pattern=pattern, **_asked(value))


def _plain(name: str, value: dict[str, Any]) -> Item:
    return Item(name, "text", text=_text(value, "text"))


def _asked(value: dict[str, Any]) -> dict[str, Any]:
    if "prompt" in value:
        return {"prompt": _text(value, "prompt")}
    if not isinstance(value["messages"], list):
        raise RequestError(f"messages must be a list, got {type(value['messages']).__name__}")
    return {"messages": value["messages"]}


def _text(value: dict[str, Any], key: str) -> str:
    if not isinstance(value[key], str) or not value[key]:
        raise RequestError(f"{key} must be a text that is not empty")
    return str(value[key])


_MAKERS = {
    frozenset(["context", "choices", "answer"]): _choices,
    frozenset(["prompt", "answer"]): _match,
    frozenset(["messages", "answer"]): _match,
    frozenset(["prompt", "regex"]): _regex,
    frozenset(["messages", "regex"]): _regex,
    frozenset(["text"]): _plain,
}
