"""Chat templates: messages -> the prompt format that a model was trained on.

A template is Jinja source from the model's files.  It runs in a sandbox with bounded time and
memory (template_sandbox.py), and any failure in it is a TemplateError.  Messages that are not a
list of {"role": ..., "content": ...} are a RequestError.  Without a template the chat format is
unknown, so that is an error too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2

from pyroclast.errors import RequestError, TemplateError
from pyroclast.text.content_parts import as_text, takes_parts
from pyroclast.text.template_meter import MAX_INTEGER_BITS
from pyroclast.text.template_sandbox import MeteredEnvironment
from pyroclast.text.template_text import literal, plain, written

_MAX_SOURCE_CHARS = 1 << 17  # the longest templates in use have about 30,000
_MAX_DEPTH = 64
# Templates write control tokens around a role, such as "<|" + role + "|>".  So these roles count as
# the template's own words; any other role is a message's.
_ROLES = """assistant context control developer documents environment function ipython
    latest_reminder model observation system tool tool_call tool_response tools user"""
_MAX_ROLE_CHARS = 100  # of an unknown one, in an error
# What clients call a message's reasoning; templates read the first two.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# A message with one of these needs no content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", *_REASONING)


class ChatTemplate:
    """One model's template.  Safe to use from several threads."""

    def __init__(
        self,
        source: str | None,
        *,
        control_tokens: Iterable[str] = (),
        **named_tokens: str,
    ) -> None:
        """`named_tokens`: what the template knows as bos_token, eos_token, pad_token, ..."""
        if not source:
            raise TemplateError(
                "this model has no chat template (a base model?); give generate() a prompt "
                "instead, or use an instruct model's file"
            )
        if len(source) > _MAX_SOURCE_CHARS:
            raise TemplateError(
                f"the chat template has {len(source)} characters; at most {_MAX_SOURCE_CHARS}"
            )
        names = {"bos_token": "", "eos_token": ""} | named_tokens
        self._names: dict[str, Any] = {name: literal(token) for name, token in names.items()}
        self._names |= {"tools": None, "documents": None}  # templates test these against none
        spelt = [name.casefold() for name in control_tokens if name]
        self._roles = {
            role: literal(role)
            for role in _ROLES.split()
            if not any(name in role for name in spelt)
        }
        self._environment = MeteredEnvironment()
        self._environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self._source = source
        self._template = self._compile(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as text."""
        return self.render_written(messages, add_generation_prompt, extra)[0]

    def render_written(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[str, bytes]:
        """The prompt as text, and a byte for each of its characters: 1 where the template wrote it,
        0 where a message or an argument did, or where that is not known."""
        text = self._render(messages, add_generation_prompt, extra or {})
        return plain(text), written(text)

    def check_roles(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """RequestError for a role that neither is in use among templates nor stands in this one."""
        check_messages(messages)
        for i, message in enumerate(messages):
            role = message["role"]
            if role not in self._known_roles:
                raise RequestError(
                    f"messages[{i}] has the role {ascii(role)[:_MAX_ROLE_CHARS]}, which this "
                    "model's chat template does not know; roles are 'system', 'user', 'assistant' "
                    "and 'tool'"
                )

    @cached_property
    def _known_roles(self) -> set[str]:
        """Those in use, and every word that stands in quotes in the template."""
        return {*_ROLES.split(), *re.findall(r"""(?<=['"])[\w.-]+(?=['"])""", self._source)}

    def _compile(self, source: str) -> jinja2.Template:
        try:
            return self._environment.compile_metered(source)
        except jinja2.TemplateSyntaxError as error:
            message = (
                f"the chat template has a syntax error at line {error.lineno}: {error.message}"
            )
            raise TemplateError(message) from error
        except Exception as error:
            # Deep nesting and large templates: RecursionError, MemoryError, ...
            raise TemplateError(f"the chat template cannot be compiled: {error!r}") from error

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        extra: Mapping[str, Any],
    ) -> str:
        check_messages(messages)
        if clash := extra.keys() & {"messages", "add_generation_prompt"}:
            raise RequestError(f"{sorted(clash)} are set by the call itself")
        size = _Size()
        values = {key: self._copy(value, key, size) for key, value in extra.items()}
        copied = [
            self._copy(self._with_text(message, f"messages[{i}]"), f"messages[{i}]", size)
            for i, message in enumerate(messages)
        ]
        for message in copied:
            message["role"] = self._roles.get(message["role"], message["role"])
        self._environment.start_meter(size.units)
        try:
            return self._template.render(
                self._names
                | values
                | {"messages": copied, "add_generation_prompt": add_generation_prompt}
            )
        except TemplateError:
            raise
        except Exception as error:
            line = _template_line(error)
            reason = f"{type(error).__name__}: {error}"[:500]
            raise TemplateError(f"the chat template failed{line}: {reason}") from error

    def _copy(self, value: Any, where: str, size: _Size, depth: int = 0) -> Any:
        """A copy of a JSON value, so that the template sees nothing else; adds up its size."""
        if depth > _MAX_DEPTH:
            raise RequestError(f"{where} is nested more than {_MAX_DEPTH} deep")
        size.units += 8
        if isinstance(value, str):
            size.units += len(value)
            return plain(_valid(value, where))
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise RequestError(
                f"{where} is a number of {value.bit_length()} bits; at most {MAX_INTEGER_BITS}"
            )
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {
                self._key(key, where, size): self._copy(item, f"{where}[{key!r}]", size, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [
                self._copy(item, f"{where}[{i}]", size, depth + 1) for i, item in enumerate(value)
            ]
        raise RequestError(
            f"{where} is a {type(value).__name__}; messages and template arguments are JSON "
            "values: dict, list, str, numbers, bool, None"
        )

    def _key(self, key: object, where: str, size: _Size) -> Any:
        if isinstance(key, str | int | float | None):
            return self._copy(key, f"a key of {where}", size)
        raise RequestError(f"{where} has the key {key!r:.80}; the keys of JSON values are strings")

    @cached_property
    def _takes_parts(self) -> bool:
        return takes_parts(self._environment.parse(self._source))

    def _with_text(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A message whose content has a form that the template takes, and whose reasoning has each
        of the names that templates give it."""
        said = (message[key] for key in _REASONING if message.get(key) is not None)
        if (reasoning := next(said, None)) is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        content = message.get("content")
        if isinstance(content, list | tuple) and not self._takes_parts:
            return {**message, "content": as_text(content, f"{where}['content']")}
        return dict(message)


class _Size:
    """Running total of the input of a rendering."""

    units = 0


def check_messages(messages: object) -> None:
    """RequestError unless these are messages for a template: some, each with role and content."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError(
            "messages must be a list with at least one {'role': ..., 'content': ...}, got "
            + ("an empty list" if messages in ([], ()) else type(messages).__name__)
        )
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{i}] must be a dict, got {type(message).__name__}")
        if not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{i}] needs a 'role' such as 'user', got {list(message)}")
        content = message.get("content")
        if isinstance(content, str | list | tuple):
            continue
        if content is not None or not any(message.get(key) for key in _INSTEAD_OF_CONTENT):
            raise RequestError(
                f"messages[{i}] needs a 'content': a str, or a list of parts; "
                f"got {type(content).__name__}"
            )


def _valid(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{where} is not valid Unicode: {error.reason}") from error
    return text


def _raise_exception(message: object) -> NoReturn:
    if not isinstance(message, str):
        message = type(message).__name__
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout[:100])


def _template_line(error: BaseException) -> str:
    """The words " at line N", or "" if the traceback does not reach into the template."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = f" at line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
