"""The requests of a batch: one JSON object a line, all of them checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import PyroclastError, RequestError, SamplingError
from pyroclast.files.small_file import parse_json
from pyroclast.sampling.params import SamplingParams

MAX_LINE_BYTES = 16 << 20
_KEYS = ("id", "prompt", "messages", "params", "template")
_PARAMS_BY_CALL = ("logits_processors",)  # a file cannot hold callables


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line: a prompt (text or token ids), or the messages of a conversation."""

    id: str
    line: int  # counted from 1
    params: SamplingParams
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    template: dict[str, Any] | None = None  # further variables for the chat template


def read_requests(path: Path, defaults: SamplingParams) -> list[BatchRequest]:
    """The requests of a file.  A line's `params` replace fields of `defaults`; without an `id`, a
    request is called by the number of its line.

    RequestError names the first line that is no request, or that has an id for the second time."""
    try:
        with path.open("rb") as file:
            return _checked(_lines(file), defaults, str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error


def hashes_of(requests: Iterable[BatchRequest], model: Sequence[Any]) -> dict[str, str]:
    """Request id -> a short hash of what decides its answer: what it asks, and the model with what
    goes with it.  Parameters that have their default do not count, so that those that a later
    version adds change nothing."""
    usual = SamplingParams().as_dict()
    found = {}
    for request in requests:
        params = {k: v for k, v in request.params.as_dict().items() if v != usual[k]}
        asked = [request.prompt, request.messages, params, request.template, list(model)]
        found[request.id] = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    return found


def _lines(file: Any) -> Iterator[tuple[int, bytes]]:
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if data.strip():
            yield number, data


def _checked(
    lines: Iterable[tuple[int, bytes]], defaults: SamplingParams, name: str
) -> list[BatchRequest]:
    found: dict[str, BatchRequest] = {}
    for number, data in lines:
        try:
            request = _request(number, data, defaults)
        except PyroclastError as error:
            raise RequestError(f"{name}, line {number}: {error}") from error
        first = found.setdefault(request.id, request)
        if first is not request:
            raise RequestError(
                f"{name}, line {number}: the id {request.id!r} was given in line {first.line} "
                "already; each request needs its own"
            )
    return list(found.values())


def parse_line(data: bytes) -> dict[str, Any]:
    """The JSON object of one line; RequestError for anything else."""
    if len(data) > MAX_LINE_BYTES:
        raise RequestError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        value = parse_json(data.decode("utf-8"))
    except json.JSONDecodeError as error:  # its line number would be that within the line
        raise RequestError(f"not valid JSON: {error.msg}, at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"must be a JSON object, got {json.dumps(value)[:80]}")
    return value


def _request(number: int, data: bytes, defaults: SamplingParams) -> BatchRequest:
    value = parse_line(data)
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        raise RequestError(f"unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    prompt, messages = value.get("prompt"), value.get("messages")
    if (prompt is None) == (messages is None):
        raise RequestError('give either "prompt" or "messages"')
    if not isinstance(prompt, str | None) and not _are_ids(prompt):
        raise RequestError("prompt must be text or a list of token ids")
    if prompt is not None and not prompt:  # an empty list would read as no prompts at all
        raise RequestError("prompt is empty: give at least one character or token id")
    if messages is not None:
        from pyroclast.text.chat import check_messages  # late: prompts need no templates

        check_messages(messages)
    template = _mapping(value, "template")
    if template is not None and messages is None:
        raise RequestError('template goes with "messages"')
    return BatchRequest(
        _id(value.get("id"), number),
        number,
        _params(_mapping(value, "params") or {}, defaults),
        prompt,
        messages,
        template,
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


def _mapping(value: dict[str, Any], key: str) -> dict[str, Any] | None:
    found = value.get(key)
    if found is not None and not isinstance(found, dict):
        raise RequestError(f"{key} must be a JSON object, got {type(found).__name__}")
    return found


def _id(value: Any, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RequestError(f"id must be text or a whole number, got {json.dumps(value)[:80]}")
    return str(value)


def _params(changes: dict[str, Any], defaults: SamplingParams) -> SamplingParams:
    for name in _PARAMS_BY_CALL:
        if name in changes:
            raise SamplingError(f"{name} cannot be given in a file")
    return defaults.replace(**changes) if changes else defaults
