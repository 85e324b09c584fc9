"""A grammar that begins after the model's reasoning: `structured={..., "after": marks}`.

marks: the text that ends the reasoning, where the prompt has begun it; or what begins and what ends
it, where the model may begin with it; or these two and what then leads the answer in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyroclast.errors import SamplingError

MAX_MARK_CHARS = 128
_N_MARKS = (1, 2, 3)
_SPACE = r"/[ \n\r\t]{0,20}/"  # what models write between the reasoning and the answer
_ANY = "/(?s:.*)/"


def check_after(name: str, value: Any) -> tuple[str, ...]:
    """The marks.  SamplingError for anything else."""
    marks = (value,) if isinstance(value, str) else value
    if (
        not isinstance(marks, Sequence)
        or len(marks) not in _N_MARKS
        or not all(isinstance(each, str) and 0 < len(each) <= MAX_MARK_CHARS for each in marks)
    ):
        raise SamplingError(
            f"{name} must be the text that ends the reasoning, or (begin, end), or (begin, end, "
            f"lead), each of at most {MAX_MARK_CHARS} characters, got {value!r:.80}"
        )
    return tuple(marks)


def after_reasoning(source: str, marks: Sequence[str], control: Mapping[str, int]) -> str:
    """llguidance's grammar of any text up to the end mark, then `source`, a grammar of its own.
    control: the ids of control tokens, which a mark may hold by name."""
    begin, end, lead = ("", marks[0], "") if len(marks) == 1 else (*marks, "")[:3]
    plain, *tokens = _pieces(end, control)
    if plain.startswith("<["):  # a control token ends the text by itself
        tokens, suffix = [plain, *tokens], ""
    else:
        suffix = f"[suffix={plain}]"
    reasoning = " ".join([*_pieces(begin, control), "text", *tokens, "SPACE"])
    head = f"({reasoning})?" if begin else reasoning
    lark = (
        f"start: {head} {' '.join(_pieces(lead, control))} @answer\n"
        f"text{suffix}: {_ANY}\nSPACE: {_SPACE}\n"
    )
    return json.dumps({"grammars": [{"name": "whole", "lark_grammar": lark}, *_named(source)]})


def _named(source: str) -> list[dict[str, Any]]:
    """The grammars of a source, the first of which is then called answer."""
    if source.lstrip().startswith("{"):
        first, *others = json.loads(source)["grammars"]
    else:
        first, others = {"lark_grammar": source}, []
    return [{**first, "name": "answer"}, *others]


def _pieces(mark: str, control: Mapping[str, int]) -> list[str]:
    """A mark as Lark: texts, and control tokens by their ids."""
    names = [name for name in control if name and name in mark]
    if not names:
        return [json.dumps(mark)] if mark else []
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return [
        f"<[{control[piece]}]>" if piece in control else json.dumps(piece)
        for piece in re.split(f"({pattern})", mark)
        if piece
    ]
