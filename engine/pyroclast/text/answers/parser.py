"""The base of the parsers: text that waits, marks that begin a state, and the deltas.

A parser is a state machine.  A state is a method that reads from the waiting text and returns
whether it got on; text that could be the beginning of a mark waits for more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyroclast.text.answers.delta import AnswerDelta, ToolCallDelta, call_id

State = Callable[[bool], bool]
_MAX_PIECE = 4096  # characters read at once: each mark that is taken copies the rest
_MAX_MARK = 64  # characters; every mark is shorter


class AnswerParser:
    """Feed it text as it comes, then `finish`; the deltas joined are the answer.

    tools: the request's tools (OpenAI's form); empty means that nothing is read as a call.
    in_reasoning: the prompt ends inside the model's reasoning."""

    id_length = 24
    marks: tuple[str, ...] | None = None  # around the reasoning, where `think` does not say it

    def __init__(
        self, tools: Sequence[Mapping[str, Any]] = (), *, in_reasoning: bool = False
    ) -> None:
        self.tools = {name: tool for tool in tools if (name := _tool_name(tool))}
        self.n_calls = 0
        self._text = ""
        self._held: list[str] = []  # text that came while the state waited
        self._tail = ""  # the end of what is held
        self._awaited: Callable[[str], object] | None = None
        self._delta = AnswerDelta()
        self._state: State = self._reasoning if in_reasoning else self._content

    def feed(self, text: str) -> AnswerDelta:
        """What became certain with this text."""
        found = AnswerDelta()
        for at in range(0, len(text), _MAX_PIECE):
            piece = text[at : at + _MAX_PIECE]
            self._held.append(piece)
            seen = self._tail + piece
            self._tail = seen[-_MAX_MARK:]
            if self._awaited is None or self._awaited(seen):
                found.add(self._run(final=False))
        return found

    def finish(self) -> AnswerDelta:
        """The rest: no more text comes."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> AnswerDelta:
        self._delta, self._awaited = AnswerDelta(), None
        self._text += "".join(self._held)
        self._held = []
        while self._state(final):
            pass
        self._tail = self._text[-_MAX_MARK:]
        return self._delta

    def _wait(self, awaited: Callable[[str], object]) -> bool:
        """Returns False, for a state that keeps its text until `awaited` is true of the text's end.
        No state runs before that, so each character is scanned once."""
        self._awaited = awaited
        return False

    def _wait_for(self, *marks: str) -> bool:
        """The same, for one of these marks."""
        return self._wait(lambda text: any(mark in text for mark in marks))

    # ---- states: each returns whether another state, or the same again, may get on ---------

    def _content(self, final: bool) -> bool:
        raise NotImplementedError

    def _reasoning(self, final: bool) -> bool:
        raise NotImplementedError

    # ---- what states are made of -----------------------------------------------------------

    def _until(self, marks: Sequence[str], final: bool) -> tuple[str, str | None]:
        """Takes the text before the first mark, and the mark.  Without one, takes what cannot
        belong to a mark any more."""
        found = [(at, mark) for mark in marks if (at := self._text.find(mark)) >= 0]
        if found:
            at, mark = min(found, key=lambda pair: (pair[0], -len(pair[1])))
            text, self._text = self._text[:at], self._text[at + len(mark) :]
            return text, mark
        n_held = 0 if final else max((_overlap(self._text, mark) for mark in marks), default=0)
        end = len(self._text) - n_held
        text, self._text = self._text[:end], self._text[end:]
        return text, None

    def _say(self, text: str) -> None:
        self._delta.content += text

    def _say_rest(self) -> None:
        """What still waits at the end is content: nothing is lost."""
        self._say(self._text)
        self._text = ""

    def _think(self, text: str) -> None:
        self._delta.reasoning += text

    def _begin_call(self, name: str, arguments: str = "") -> None:
        piece = ToolCallDelta(self.n_calls, call_id(self.id_length), name, arguments)
        self._delta.tool_calls.append(piece)
        self.n_calls += 1

    def _extend_call(self, arguments: str) -> None:
        """The next characters of the last call's arguments."""
        if not arguments:
            return
        pieces = self._delta.tool_calls
        if pieces and pieces[-1].index == self.n_calls - 1:
            pieces[-1].arguments += arguments
        else:
            pieces.append(ToolCallDelta(self.n_calls - 1, arguments=arguments))


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of text could begin the mark."""
    for n in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:n]):
            return n
    return 0


def _tool_name(tool: Mapping[str, Any]) -> str | None:
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
