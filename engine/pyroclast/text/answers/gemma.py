"""FunctionGemma and Gemma 4: call:name{key:value}, strings between marks of their own."""

from __future__ import annotations

import json

from pyroclast.text.answers.call_json import strict_json
from pyroclast.text.answers.tagged import TaggedParser


class FunctionGemmaParser(TaggedParser):
    """<start_function_call>call:name{key:<escape>text<escape>,n:1}<end_function_call>."""

    think: tuple[str, str] | None = None
    call = ("<start_function_call>", "<end_function_call>")
    quote = "<escape>"

    def _between_calls(self, final: bool) -> bool:
        """Waits for the whole call: its values are spelt out as JSON at its end."""
        text, mark = self._peek(final)
        if text is None:
            return self._wait_for(self.call[1])
        head, brace, rest = text.partition("{")
        name = head.strip().removeprefix("call:").strip()
        if not brace or not name:
            self._say(text)
        else:
            self._begin_call(name, _Values("{" + rest, self.quote).json())
        if mark:
            self._end_calls()
        return mark

    def _peek(self, final: bool) -> tuple[str | None, bool]:
        at = self._text.find(self.call[1])
        if at < 0 and not final:
            return None, False
        text = self._text if at < 0 else self._text[:at]
        self._text = "" if at < 0 else self._text[at + len(self.call[1]) :]
        return (text or None) if at < 0 else text, at >= 0


class Gemma4Parser(FunctionGemmaParser):
    """<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>; reasoning on a channel."""

    think = ("<|channel>thought\n", "<channel|>")
    call = ("<|tool_call>", "<tool_call|>")
    quote = '<|"|>'


class _Values:
    """Gemma's values, spelt as JSON; what cannot be read ends the value that it stands in."""

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote, self._at = text, quote, 0

    def json(self) -> str:
        """The object that the text begins with."""
        return json.dumps(self._value(0), ensure_ascii=False)

    def _value(self, depth: int) -> object:
        if self._skip(self._quote):
            return self._string()
        if depth < _MAX_DEPTH and self._skip("{"):
            return self._map(depth)
        if depth < _MAX_DEPTH and self._skip("["):
            return self._list(depth)
        word = self._word(",}]")
        try:
            value: object = strict_json(word)
        except ValueError:
            value = word
        return value

    def _map(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while not self._ends("}"):
            key = self._string() if self._skip(self._quote) else self._word(":")
            self._skip(":")
            found[key] = self._value(depth + 1)
            self._skip(",")
        return found

    def _list(self, depth: int) -> list[object]:
        found = []
        while not self._ends("]"):
            found.append(self._value(depth + 1))
            self._skip(",")
        return found

    def _ends(self, bracket: str) -> bool:
        """At the bracket, or at anything that no value begins with."""
        if self._skip(bracket) or self._at >= len(self._text):
            return True
        return self._text[self._at] in "}]" and (self._skip("}") or self._skip("]"))

    def _string(self) -> str:
        end = self._text.find(self._quote, self._at)
        end = len(self._text) if end < 0 else end
        text, self._at = self._text[self._at : end], end + len(self._quote)
        return text

    def _word(self, ends: str) -> str:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in ends:
            self._at += 1
        return self._text[start : self._at].strip()

    def _skip(self, mark: str) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found


_MAX_DEPTH = 64
