"""Text on a grid: bars, percentages and tokens in a given number of columns."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, columns: int) -> str:
    """A bar of `share` (0 to 1) of `columns`, to an eighth of a column; never empty for a share
    above 0."""
    eighths = round(share * columns * 8)
    if share > 0:
        eighths = max(1, eighths)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def percent(p: float) -> str:
    """Eight columns: two decimals, four for small shares, one digit for tiny ones."""
    if p == 0.0:
        return f"{'0':>7}%"
    if p >= 0.001:
        return f"{p * 100:7.2f}%"
    if p >= 0.00001:
        return f"{p * 100:7.4f}%"
    return f"{p * 100:7.0e}%"


def width(text: str) -> int:
    """How many columns a terminal needs for the text."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - marks


def clip(text: str, columns: int) -> str:
    """The text, cut with an ellipsis if it is too wide."""
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def pad(text: str, columns: int) -> str:
    """The text in exactly so many columns."""
    text = clip(text, columns)
    return text + " " * (columns - width(text))


def piece(tokenizer: Tokenizer, token_id: int) -> str:
    """A token in quotes, with its spaces, newlines and odd bytes visible."""
    data = b"" if token_id >= tokenizer.vocab_size else tokenizer.token_bytes(token_id)
    if not data:
        return f"<{token_id}>"
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)
