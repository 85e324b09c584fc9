"""Chat templates made by a grammar, rendered in the sandbox."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pyroclast.text.chat import ChatTemplate
from template_grammar import Templates
from torture.campaign import Kind
from torture.record import Record

_MESSAGES: Sequence[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def run(seed: int, deadline: float, record: Record) -> None:
    templates = Templates(seed)
    while time.monotonic() < deadline:
        source = templates.next().encode()
        with record.case(source):
            render(source)


def render(payload: bytes) -> None:
    ChatTemplate(payload.decode()).render(_MESSAGES)


TEMPLATES = Kind("template", run, render)
