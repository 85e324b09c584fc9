"""Chat templates made by a grammar, rendered in the sandbox."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from pyroclast.text.chat import ChatTemplate
from template_grammar import SMALL_VALUES, Templates
from torture.campaign import Kind
from torture.record import Record

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_MESSAGES: Sequence[dict[str, Any]] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": "", "tool_calls": [_TOOL]},
]
_SLOW_EVERY = 500  # a template with large values takes as long as a thousand others
# What a template of a model is made of; a third of the cases are such a text with a change.
_REAL = (
    (
        "{%- if tools %}{{ tools | tojson(indent=2) }}{%- endif %}{% for message in messages %}"
        "{{- '<|im_start|>' + message['role'] + '\n' + (message.content | trim) + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    (
        "{{ bos_token }}{% set ns = namespace(system='', first=true) %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content %}"
        "{% elif m.tool_calls is defined %}"
        "{% for call in m.tool_calls %}{{ call.function.name ~ call.function.arguments | tojson }}"
        "{% endfor %}{% elif loop.last and m.content is string %}{{ m.content.split('</think>')[-1]"
        ".lstrip('\n') }}{% else %}{{ raise_exception('no ' ~ m.role) }}{% endif %}{% endfor %}"
    ),
    (
        "{% macro say(m, n=3) %}{% if n > 0 %}{{ m['content'][:n] | upper }}{{ say(m, n - 1) }}"
        "{% endif %}{% endmacro %}{% for m in messages | selectattr('role', 'equalto', 'user') %}"
        "{{ say(m) }}{% endfor %}{{ strftime_now('%d %b %Y') }}{% generation %}x{% endgeneration %}"
    ),
)
_WORDS = sorted({word for text in _REAL for word in re.findall(r"\w+|[^\w\s]+|\s+", text)})


def run(seed: int, deadline: float, record: Record) -> None:
    small, large, dice = Templates(seed, SMALL_VALUES), Templates(seed), Random(seed)
    while True:  # one at least
        kind = dice.randrange(_SLOW_EVERY)
        made = large.next() if kind == 0 else _changed(dice) if kind % 3 == 1 else small.next()
        source = made.encode()
        with record.case(source):
            render(source)
        if time.monotonic() >= deadline:
            break


def _changed(dice: Random) -> str:
    """A real template in which words were exchanged, removed or repeated."""
    words = re.findall(r"\w+|[^\w\s]+|\s+", dice.choice(_REAL))
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(words))
        new = [], [dice.choice(_WORDS)], [words[at]] * dice.choice([2, 2, 300])
        words[at : at + 1] = dice.choice(new)
    return "".join(words)


def render(payload: bytes) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    ChatTemplate(payload.decode(), **names).render(_MESSAGES, True, {"tools": [_TOOL]})


TEMPLATES = Kind("template", run, render)
