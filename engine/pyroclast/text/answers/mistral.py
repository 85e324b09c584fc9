"""Mistral: [TOOL_CALLS][{...}, {...}], later [TOOL_CALLS]name[ARGS]{...}; [THINK]...[/THINK]."""

from __future__ import annotations

from pyroclast.text.answers.call_json import CallObject
from pyroclast.text.answers.tagged import TaggedParser

_ARGS = "[ARGS]"
_CALL_ID = "[CALL_ID]"


class MistralParser(TaggedParser):
    """Both ways of writing calls; the ids have nine characters, as the templates demand."""

    id_length = 9
    think = ("[THINK]", "[/THINK]")
    call = ("[TOOL_CALLS]", "</s>")

    def _between_calls(self, final: bool) -> bool:
        self._text = self._text.lstrip()
        if not self._text:
            return False
        if self._text[0] in "[]{,":
            self._state = super()._between_calls
            return True
        name, mark = self._peek_name(final)
        if mark is None:
            return self._wait_for(_ARGS, "{")
        self._begin_call(name.split(_CALL_ID)[0].strip())
        self._object, self._named = CallObject(), True
        self._state = self._in_arguments
        return True

    def _peek_name(self, final: bool) -> tuple[str, str | None]:
        """The name before [ARGS] or before the brace; text without either is content at the end."""
        ends = [at for mark in (_ARGS, "{") if (at := self._text.find(mark)) >= 0]
        if not ends:
            if final:
                self._say_rest()
            return "", None
        name, self._text = self._text[: min(ends)], self._text[min(ends) :]
        self._text = self._text.removeprefix(_ARGS)
        return name, _ARGS

    def _in_arguments(self, final: bool) -> bool:
        """The object of arguments itself."""
        text = self._text if self._object.n_read else self._text.lstrip()
        self._text = self._object.take(text)
        self._extend_call(text[: len(text) - len(self._text)])
        if not (self._object.ended or self._object.failed or final):
            return False
        if final and not self._object.n_read:
            self._extend_call("{}")
        self._end_calls()
        return bool(self._text)
