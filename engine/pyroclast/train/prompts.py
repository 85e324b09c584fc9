"""Prompts and rated pairs of answers: JSONL files, every line checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.train.json_lines import read_json_lines

Prompt = str | list[dict[str, str]]


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompt of each line: {"prompt": text or messages}, or {"messages": [...]}."""
    return [_prompt(place, row) for place, row in _rows(path)]


def read_pairs(path: str | Path) -> list[dict[str, Any]]:
    """The rows {"prompt", "chosen", "rejected"}, answers as text where the prompt is text, and as
    messages of the assistant where it is messages."""
    found = []
    for place, row in _rows(path):
        prompt = _prompt(place, row)
        answers = {side: _answer(place, row, side) for side in ("chosen", "rejected")}
        if answers["chosen"] == answers["rejected"]:
            raise TrainingError(f"{place}: chosen and rejected are the same answer")
        pair: dict[str, Any] = {"prompt": prompt, **answers}
        if not isinstance(prompt, str):
            pair |= {s: [{"role": "assistant", "content": a}] for s, a in answers.items()}
        found.append(pair)
    return found


def identity_of(rows: Sequence[Any]) -> str:
    """A hash of the rows: a run resumes only with those that it began with."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def split_rows(
    rows: Sequence[Any], held_out: float, path: str | Path
) -> tuple[list[Any], list[Any]]:
    """(rows to train on, rows held out): the last ones, at least one of each."""
    if len(rows) < 2:
        raise TrainingError(
            f"{path}: must have at least 2 lines, 1 of them held out; got {len(rows)}"
        )
    n_held = min(len(rows) - 1, max(1, round(held_out * len(rows))))
    return list(rows[:-n_held]), list(rows[-n_held:])


def _rows(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    found = list(read_json_lines(path))
    if not found:
        raise TrainingError(f"{path}: holds no lines")
    return found


def _prompt(place: str, row: dict[str, Any]) -> Prompt:
    value = row.get("prompt", row.get("messages"))
    if isinstance(value, str) and value:
        return value
    fields = ("role", "content")
    if (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict) and all(isinstance(m.get(f), str) for f in fields) for m in value
        )
    ):
        return [{f: m[f] for f in fields} for m in value]
    raise TrainingError(
        f'{place}: "prompt" must be text or a list of {{"role", "content"}}, got {value!r:.80}'
    )


def _answer(place: str, row: dict[str, Any], side: str) -> str:
    value = row.get(side)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise TrainingError(f'{place}: "{side}" must be text, got {value!r:.80}')
    return value
