"""Answers whose reasoning and calls stand between tags: Hermes, Qwen, SmolLM3, Granite, Phi-4."""

from __future__ import annotations

from pyroclast.text.answers.call_json import CallObject
from pyroclast.text.answers.parser import AnswerParser


class TaggedParser(AnswerParser):
    """Reasoning between `think` tags; calls, as JSON objects or lists of them, between `call` tags.

    What stands between call tags and is no call is content: nothing is lost."""

    think: tuple[str, str] | None = ("<think>", "</think>")
    call: tuple[str, str] = ("<tool_call>", "</tool_call>")

    _object: CallObject
    _named = False
    _after_mark = ""  # what a mark drops when white space follows it

    def _content(self, final: bool) -> bool:
        marks = [self.think[0]] if self.think else []
        if self.tools:
            marks.append(self.call[0])
        text, mark = self._until(marks, final)
        self._say_between(text)
        if mark is None:
            return False
        if self.think and mark == self.think[0]:
            self._state = self._reasoning
        else:
            self._state = self._between_calls
        return True

    def _say_between(self, text: str) -> None:
        """White space right after reasoning or a call belongs to the tags, not to the content."""
        if self._after_mark:
            text = text.lstrip()
        if text:
            self._after_mark = ""
            self._say(text)

    def _reasoning(self, final: bool) -> bool:
        assert self.think is not None, "only a parser with think tags is asked to begin inside them"
        text, mark = self._until([self.think[1]], final)
        self._think(text)
        if mark is None:
            return False
        self._after_mark = mark
        self._state = self._content
        return True

    def _between_calls(self, final: bool) -> bool:
        """Inside the tags: the next object, or the closing tag."""
        self._text = self._text.lstrip(" \t\r\n,;[]")
        if self._text.startswith(self.call[1]):
            self._text = self._text[len(self.call[1]) :]
            self._end_calls()
            return True
        if not self._text or (self.call[1].startswith(self._text) and not final):
            return False
        if self._text[0] != "{":
            self._state = self._no_call
            return True
        self._object, self._named = CallObject(stops=True), False
        self._state = self._in_object
        return True

    def _end_calls(self) -> None:
        self._after_mark = self.call[1]
        self._state = self._content

    def _no_call(self, final: bool) -> bool:
        text, mark = self._until([self.call[1]], final)
        self._say(text)
        if mark is not None:
            self._state = self._content
        return mark is not None

    def _in_object(self, final: bool) -> bool:
        found = self._object
        self._text = found.take(self._text)
        if found.name is not None and not self._named:
            if not self._is_call(found.name):
                return self._refuse()
            self._named = True
            self._begin_call(found.name)
        if self._named:
            self._extend_call(found.new_arguments())
        if self._text and not (found.ended or found.failed):
            return True  # only the name was read
        if not (found.ended or found.failed or final):
            return False
        if not self._named:
            return self._refuse()
        self._state = self._between_calls
        return bool(self._text)

    def _is_call(self, name: str) -> bool:
        """Between tags every object with a name is a call, also of a tool that nobody offered: the
        caller can answer it with an error, which helps the model more than silence."""
        return bool(name)

    def _refuse(self) -> bool:
        """An object that is no call is content."""
        self._say(self._object.raw)
        self._state = self._no_call
        return bool(self._text)


class PhiParser(TaggedParser):
    """Phi-4-mini: <|tool_call|>[{...}]<|/tool_call|>."""

    think = None
    call = ("<|tool_call|>", "<|/tool_call|>")


class GraniteParser(TaggedParser):
    """Granite 3: <|tool_call|>[{...}], to the end of the answer."""

    call = ("<|tool_call|>", "<|end_of_text|>")
