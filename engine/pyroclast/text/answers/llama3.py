"""Llama 3: the whole answer is {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>."""

from __future__ import annotations

from pyroclast.text.answers.tagged import TaggedParser

_TAG = "<|python_tag|>"


class Llama3Parser(TaggedParser):
    """An answer that begins with a brace is a call if it has a name that is a tool's; else it is
    content."""

    think = None
    call = (_TAG, "<|eom_id|>")

    def _content(self, final: bool) -> bool:
        if not self.tools:
            return super()._content(final)
        stripped = self._text.lstrip()
        if not stripped:
            if final:
                self._say_rest()
            return self._wait(str.strip)
        if _TAG.startswith(stripped[: len(_TAG)]) and len(stripped) < len(_TAG) and not final:
            return False
        if stripped.startswith(_TAG) or stripped[0] == "{":
            self._text = stripped.removeprefix(_TAG)
            self._state = self._between_calls
        else:
            self._state = super()._content
        return True

    def _is_call(self, name: str) -> bool:
        return name in self.tools
