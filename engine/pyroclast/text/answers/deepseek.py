"""DeepSeek R1 and V3: calls between marks of their own, the name before a separator."""

from __future__ import annotations

from pyroclast.text.answers.call_json import CallObject
from pyroclast.text.answers.tagged import TaggedParser


def _mark(name: str) -> str:
    """DeepSeek's control tokens have bars of full width (U+FF5C)."""
    return f"<\uff5c{name}\uff5c>"


_SEPARATOR = _mark("tool▁sep")
_BEGIN, _END = _mark("tool▁call▁begin"), _mark("tool▁call▁end")


class DeepSeekParser(TaggedParser):
    """V3.1: name, separator, object.  R1 and V3: "function", separator, name, and the object in a
    fenced block."""

    call = (_mark("tool▁calls▁begin"), _mark("tool▁calls▁end"))

    def _between_calls(self, final: bool) -> bool:
        _, mark = self._until([_BEGIN, self.call[1]], final)
        if mark == self.call[1]:
            self._end_calls()
        elif mark == _BEGIN:
            self._state = self._name
        return mark is not None

    def _name(self, final: bool) -> bool:
        """Waits for the brace that begins the arguments: everything before it is the name."""
        brace = self._text.find("{")
        end = self._text.find(_END)
        if brace < 0 and end < 0:
            if final:
                self._say_rest()
            return self._wait_for("{", _END)
        at = brace if brace >= 0 and (end < 0 or brace < end) else end
        head, self._text = self._text[:at], self._text[at:]
        first, _, second = head.partition(_SEPARATOR)
        name = second.split("```")[0] if first.strip() == "function" and second.strip() else first
        self._begin_call(name.strip())
        self._object = CallObject()
        self._state = self._arguments
        return True

    def _arguments(self, final: bool) -> bool:
        text = self._text
        if text.startswith(_END) and not self._object.n_read:
            self._extend_call("{}")
            self._state = self._between_calls
            return True
        self._text = self._object.take(text)
        self._extend_call(text[: len(text) - len(self._text)])
        if not (self._object.ended or self._object.failed):
            if final and not self._object.n_read:
                self._extend_call("{}")
            return False
        self._state = self._between_calls
        return True
