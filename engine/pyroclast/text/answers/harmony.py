"""OpenAI's harmony (gpt-oss): messages with a header each, on the channels analysis, commentary
and final."""

from __future__ import annotations

import re
from collections.abc import Callable

from pyroclast.text.answers.parser import AnswerParser

_MESSAGE, _START = "<|message|>", "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)
_RECIPIENT = re.compile(r"to=(?:functions\.)?([A-Za-z0-9_.-]+)")


class HarmonyParser(AnswerParser):
    """analysis is reasoning; a message to a function is a call; everything else is content.

    The prompt ends with <|start|>assistant, so that an answer begins inside a header."""

    marks = (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant",
        "<|channel|>final<|message|>",
    )
    _said = False  # whether the message that is being read said anything

    def _content(self, final: bool) -> bool:
        return self._header(final)

    def _reasoning(self, final: bool) -> bool:
        return self._message(final, self._think)

    def _header(self, final: bool) -> bool:
        at = self._text.find(_MESSAGE)
        if at < 0:
            if final and self._text.strip() and "<|" not in self._text:
                self._say_rest()  # a model that forgot its header
            return self._wait_for(_MESSAGE)
        header, self._text = self._text[:at], self._text[at + len(_MESSAGE) :]
        recipient = _RECIPIENT.search(header)
        self._said = False
        if recipient and recipient[1] != "all":
            self._begin_call(recipient[1])
            self._state = self._call
        elif "<|channel|>analysis" in header:
            self._state = self._reasoning
        else:
            self._state = self._said_content
        return True

    def _said_content(self, final: bool) -> bool:
        return self._message(final, self._say)

    def _call(self, final: bool) -> bool:
        ended = self._message(final, self._extend_call)
        if (ended or final) and not self._said:
            self._extend_call("{}")
            self._said = True
        return ended

    def _message(self, final: bool, put: Callable[[str], None]) -> bool:
        text, mark = self._until(_ENDS, final)
        if text:
            self._said = True
            put(text)
        if mark is None:
            return False
        self._state = self._header
        return True
