"""Chat templates in use: whatever transformers renders, Pyroclast renders alike.

PYROCLAST_TEMPLATES names folders, as PATH does, whose *.jinja files are read: llama.cpp's
models/templates, for instance.  Without it only the templates of installed models are compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError as JinjaError

from pyroclast.checkpoint.installed import INSTALLED_MODELS
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, TemplateError
from pyroclast.text.chat import ChatTemplate

pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = pytest.mark.oracle

FOLDERS = [Path(each) for each in os.environ.get("PYROCLAST_TEMPLATES", "").split(os.pathsep)
           if each]  # fmt: skip
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def say(role: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the sky does in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Łódź", "days": [1, 2]}},
}
USER, ANSWER = say("user", "Hi <b> & 'you'?\n\n"), say("assistant", "  Hello!  ")
SYSTEM = say("system", "Be brief.\n")
ASKED = [USER, say("assistant", "", tool_calls=[CALL])]
ANSWERED = [*ASKED, say("tool", '{"sky": "blue"}', name="weather", tool_call_id="call00001")]
# name -> (messages, tools)
CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "three turns": ([SYSTEM, USER, ANSWER, say("user", "")], None),
    "answered": ([USER, ANSWER], None),
    "reasoning": ([USER, ANSWER | {"reasoning_content": "Hm."}, USER], None),
    "thoughts": ([USER, say("assistant", "<think>\nHm.\n</think>\n\nHi"), USER], None),
    "tools": ([USER], [WEATHER]),
    "tools and system": ([SYSTEM, USER], [WEATHER, WEATHER]),
    "a call": (ASKED, [WEATHER]),
    "a call's result": (ANSWERED, [WEATHER]),
    "after a call": ([*ANSWERED, ANSWER, USER], [WEATHER]),
    "null beside a call": ([USER, say("assistant", None, tool_calls=[CALL])], [WEATHER]),
}


def expected(source: str, name: str, add: bool) -> str | None:
    """What transformers renders; None if the template refuses, or fails."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages, tools = CHATS[name]
    try:
        [text], _ = render_jinja_template(
            [messages], tools=tools, chat_template=source, add_generation_prompt=add, **TOKENS
        )
    except (JinjaError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return None
    return str(text)


def compare(source: str) -> int:
    """How many chats transformers renders; each must be the same here."""
    template, n_rendered = ChatTemplate(source, **TOKENS), 0
    for name, (messages, tools) in CHATS.items():
        for add in (True, False):
            want = expected(source, name, add)
            if want is None:
                continue
            try:
                got = template.render(messages, add, {"tools": tools} if tools else None)
            except TemplateError as error:
                got = f"refused: {error}"
            assert got == want, f"{name}, add_generation_prompt={add}"
            n_rendered += 1
    return n_rendered


@pytest.mark.parametrize("name", INSTALLED_MODELS)
def test_an_installed_model_s_template(name: str) -> None:
    try:
        with open_checkpoint(name) as checkpoint:
            source = checkpoint.tokenizer().chat_templates.get("default")
    except ModelFileError as error:
        pytest.skip(str(error))
    if source is None:
        pytest.skip(f"{name} has no template")
    assert compare(source) > 6


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_public_template(path: Path) -> None:
    if not compare(path.read_text(encoding="utf-8")):
        pytest.skip("transformers renders none of these chats")


def test_folders_without_templates_are_a_mistake() -> None:
    if not FOLDERS:
        pytest.skip("PYROCLAST_TEMPLATES names no folder of templates")
    assert FILES, FOLDERS
