"""Qwen3-Coder and Qwen3.5: a call's arguments are tags, <function=name><parameter=key>value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyroclast.text.answers.call_json import strict_json
from pyroclast.text.answers.tagged import TaggedParser

_FUNCTION, _PARAMETER = "<function=", "<parameter="
_END_FUNCTION, _END_PARAMETER = "</function>", "</parameter>"


class QwenXmlParser(TaggedParser):
    """A value becomes JSON by its schema: a string unless the schema says otherwise."""

    _name = ""
    _n_arguments = 0
    _is_said = False  # whether content came since the last tag

    def _between_calls(self, final: bool) -> bool:
        text, mark = self._until([_FUNCTION, self.call[1]], final)
        text = text if self._is_said else text.lstrip()  # white space belongs to the tags
        self._is_said = bool(text or self._is_said) and mark is None
        self._say(text)
        if mark == self.call[1]:
            self._end_calls()
        elif mark == _FUNCTION:
            self._state = self._function_name
        return mark is not None

    def _function_name(self, final: bool) -> bool:
        name, bracket, rest = self._text.partition(">")
        if not bracket:
            if final:
                self._say_rest()
            return self._wait_for(">")
        self._name, self._text, self._n_arguments = name.strip(), rest, 0
        self._begin_call(self._name)
        self._state = self._parameters
        return True

    def _parameters(self, final: bool) -> bool:
        _, mark = self._until([_PARAMETER, _END_FUNCTION], final)
        if mark == _PARAMETER:
            self._state = self._parameter
        elif mark == _END_FUNCTION or final:
            self._extend_call("}" if self._n_arguments else "{}")
            self._state = self._between_calls
        return mark is not None

    def _parameter(self, final: bool) -> bool:
        """Waits for the whole value, because its type decides how it is spelt."""
        at = self._text.find(_END_PARAMETER)
        if at < 0 and not final:
            return self._wait_for(_END_PARAMETER)
        whole, self._text = (
            (self._text, "")
            if at < 0
            else (self._text[:at], self._text[at + len(_END_PARAMETER) :])
        )
        key, _, value = whole.partition(">")
        value = value.removeprefix("\n").removesuffix("\n")
        before = ", " if self._n_arguments else "{"
        self._extend_call(f"{before}{json.dumps(key.strip())}: {self._spelt(key.strip(), value)}")
        self._n_arguments += 1
        self._state = self._parameters
        return True

    def _spelt(self, key: str, value: str) -> str:
        if _says_string(self.tools.get(self._name, {}), key):
            return json.dumps(value, ensure_ascii=False)
        try:
            strict_json(value)
        except ValueError:
            return json.dumps(value, ensure_ascii=False)
        return value


def _says_string(tool: Mapping[str, Any], key: str) -> bool:
    schema: Any = tool.get("function", tool)
    for name in ("parameters", "properties", key, "type"):
        schema = schema.get(name) if isinstance(schema, Mapping) else None
    return bool(schema == "string")
