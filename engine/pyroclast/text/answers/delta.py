"""What a parser gives for each piece of text that it is fed."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of the call with this index; `id` and `name` come once, with its first piece.

    arguments: the next characters of a JSON object, as the model wrote them."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class AnswerDelta:
    """What became certain: any of the three may be empty."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)

    def add(self, later: AnswerDelta) -> None:
        """Appends what became certain after this."""
        self.reasoning += later.reasoning
        self.content += later.content
        pieces = later.tool_calls
        if self.tool_calls and pieces and pieces[0].index == self.tool_calls[-1].index:
            self.tool_calls[-1].arguments += pieces[0].arguments
            pieces = pieces[1:]
        self.tool_calls += pieces

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.tool_calls)


@dataclass(slots=True)
class ToolCall:
    """A whole call; arguments is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Answer:
    """A whole answer: the sum of its deltas."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def add(self, delta: AnswerDelta) -> None:
        """Appends what became certain."""
        self.reasoning += delta.reasoning
        self.content += delta.content
        for piece in delta.tool_calls:
            if piece.index == len(self.tool_calls):
                self.tool_calls.append(ToolCall(piece.id or "", piece.name or "", ""))
            self.tool_calls[piece.index].arguments += piece.arguments


def call_id(length: int = 24) -> str:
    """A fresh id.  Mistral's templates accept exactly nine letters and digits."""
    text = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))
    return text if length == 9 else f"call_{text}"
