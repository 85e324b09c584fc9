"""`TemplateText`: a string that knows which of its characters the chat template wrote itself.

Control tokens count only where the template wrote every character of them.  So the sandbox turns
the template's own strings into TemplateTexts and leaves those of a message alone: a plain `str` is
a message's.  The operations below keep the marks, one byte a character beside the text.  Python's
own operations on a TemplateText return a plain `str`, so an operation that is not listed here makes
ordinary text: it can lose a control token of the template's, and can never make one of a message's.

Every result has the characters that Python's operation gives; the template sees nothing of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any, SupportsIndex

import markupsafe

_FIELD = re.compile(r"%(?:\((?P<key>[^()]*)\))?[#0\- +]*\d*(?:\.\d+)?[hlL]?(?P<kind>[a-zA-Z%])")


class TemplateText(str):
    """`written` has 1 for each character that the template wrote, 0 for each other one."""

    __slots__ = ("written",)
    written: bytes

    def __new__(cls, text: str, written: bytes | None = None) -> TemplateText:
        """None of it is the template's if `written` does not say so: type(x)(text) is no way in."""
        self = super().__new__(cls, str.__str__(text))
        self.written = bytes(len(text)) if written is None else written
        assert len(self.written) == len(text)
        return self

    def __str__(self) -> TemplateText:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> TemplateText:
        if not isinstance(key, slice):
            key = range(len(self))[key]
            return TemplateText(super().__getitem__(key), self.written[key : key + 1])
        return TemplateText(super().__getitem__(key), self.written[key])


class SafeText(TemplateText):
    """What the filter `safe` returns: `+` escapes the other text for HTML, and the sum is safe.  Of
    any other operation the result is not safe."""

    __slots__ = ()


def safe(text: str) -> SafeText:
    """The same characters and marks, safe."""
    return SafeText(text, written(text))


def literal(text: str) -> TemplateText:
    """A text that the template wrote."""
    return TemplateText(text, b"\1" * len(text))


def written(text: str) -> bytes:
    """Which characters the template wrote: none of a plain string."""
    return text.written if isinstance(text, TemplateText) else bytes(len(text))


def joined(texts: Iterable[str], separator: str = "") -> str:
    """separator.join(texts)."""
    texts = list(texts)
    result = separator.join(texts)
    if not any(isinstance(text, TemplateText) for text in (separator, *texts)):
        return result
    return TemplateText(result, written(separator).join(map(written, texts)))


def added(left: str, right: str) -> str:
    """left + right, as jinja2 adds texts of which one may be safe."""
    if isinstance(left, SafeText) or isinstance(right, SafeText):
        return safe(joined(map(_escaped, (left, right))))
    return joined((left, right))


def _escaped(text: str) -> str:
    if isinstance(text, SafeText):
        return text
    result = str(markupsafe.escape(plain(text)))
    return result if 0 in written(text) else literal(result)


def repeated(text: str, times: int) -> str:
    """text * times."""
    return TemplateText(text * times, written(text) * times)


def plain(text: str) -> str:
    """The same characters, none of them the template's."""
    return "".join((text,)) if isinstance(text, TemplateText) else text


def is_mixed(text: str) -> bool:
    """Whether some of the characters are the template's and some are not."""
    marks = written(text)
    return 0 in marks and 1 in marks


def replaced(text: str, old: str, new: str, count: int = -1) -> str:
    """text.replace(old, new, count).  What replaces a message's characters is a message's, too:
    else the message would decide where a control token stands."""
    result = text.replace(old, new, count)
    if not old or not isinstance(text, TemplateText):
        return plain(result)
    if not is_mixed(text) and 0 not in written(new):
        return literal(result) if 1 in text.written else result
    pieces: list[str] = []
    start = 0
    while count and (end := text.find(old, start)) >= 0:
        stop = end + len(old)
        pieces += [text[start:end], plain(new) if 0 in text.written[end:stop] else new]
        start, count = stop, count - 1
    return joined([*pieces, text[start:]])


def formatted(pattern: str, values: Any) -> str:
    """pattern % values."""
    result = pattern % values
    if not isinstance(pattern, TemplateText):
        return plain(result)
    pieces: list[str] = []
    start = n = 0
    for field in _FIELD.finditer(pattern):
        pieces.append(pattern[start : field.start()])
        start = field.end()
        if 0 in pattern.written[field.start() : start]:  # a message decides what is put in
            return plain(result)
        if field["kind"] == "%":
            pieces.append("%")
            continue
        if field["key"] is not None:
            value = values[field["key"]]
            text = plain(field[0]) % values
        else:
            value = values[n] if isinstance(values, tuple) else values
            text = plain(field[0]) % (value,)
            n += 1
        # With flags, a width or a precision it is not the value's own text any more.
        pieces.append(value if field[0][-2:] in ("%s", ")s") and value == text else text)
    return _checked(joined([*pieces, pattern[start:]]), result)


def filled(
    pattern: str, args: Sequence[Any], kwargs: Mapping[str, Any], fill: Callable[[str], str]
) -> str:
    """pattern.format(*args, **kwargs), as `fill` does it: fill(pattern) is the result."""
    result = fill(plain(pattern))
    if not isinstance(pattern, TemplateText):
        return result
    if 0 in pattern.written:  # a message may decide what is put in
        return result
    pieces: list[str] = []
    n = 0
    for constant, name, spec, conversion in Formatter().parse(plain(pattern)):
        pieces.append(literal(constant))
        if name is None:
            continue
        number, n = (n, n + 1) if name[:1] in ("", ".", "[") else ("", n)
        suffix = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        text = fill(f"{{{number}{name}{suffix}}}")
        key = f"{number}{name}"
        value = args[int(key)] if key.isdecimal() else kwargs.get(key)
        pieces.append(value if isinstance(value, str) and value == text else text)
    return _checked(joined(pieces), result)


def _checked(marked: str, result: str) -> str:
    """The marked text if it is the result, else the result without marks."""
    return marked if marked == result else plain(result)


def method(text: TemplateText, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """text.name(*args, **kwargs) of a method of strings, with marks where METHODS has it."""
    result = getattr(str, name)(text, *args, **kwargs)
    if name not in METHODS or 1 not in text.written:
        return result
    return METHODS[name](text, name, result, [*args, *kwargs.values()])


def _changed(text: TemplateText, name: str, result: str, _args: Sequence[Any]) -> str:
    """A change of case.  Some characters become two, so each run of one writer is measured."""
    marks = text.written
    if len(result) != len(text):
        if name == "title":  # depends on the neighbours
            return result
        first = getattr(str, name)
        change = str.lower if name == "capitalize" else first
        marks = b"".join(
            run[0][:1] * len((change if run.start() else first)(text[run.start() : run.end()]))
            for run in re.finditer(b"\0+|\1+", marks)
        )
    return TemplateText(result, marks) if len(marks) == len(result) else result


def _from_start(text: TemplateText, _name: str, result: str, _args: Sequence[Any]) -> str:
    return text[: len(result)]


def _to_end(text: TemplateText, _name: str, result: str, _args: Sequence[Any]) -> str:
    return text[len(text) - len(result) :]


def _stripped(text: TemplateText, _name: str, result: str, args: Sequence[Any]) -> str:
    start = len(text) - len(str.lstrip(text, *args))
    return text[start : start + len(result)]


def _pieces(
    text: TemplateText, name: str, result: Sequence[str], args: Sequence[Any]
) -> Sequence[str]:
    """The pieces of a text that was cut, each found where it stood."""
    separator = next((arg for arg in args if isinstance(arg, str)), None)
    pieces, start = [], 0
    lines = text.splitlines(keepends=True) if name == "splitlines" else result
    for piece, whole in zip(result, lines, strict=True):
        if name.endswith("split") and separator is None:
            start = text.find(piece, start)  # it begins where the white space ends
        pieces.append(text[start : start + len(piece)])
        start += len(whole)
        if name.endswith("split") and separator is not None:
            start += len(separator)
    return tuple(pieces) if isinstance(result, tuple) else pieces


METHODS: dict[str, Callable[[TemplateText, str, Any, Sequence[Any]], Any]] = {
    **dict.fromkeys(("capitalize", "casefold", "lower", "swapcase", "title", "upper"), _changed),
    **dict.fromkeys(("rstrip", "removesuffix"), _from_start),
    **dict.fromkeys(("lstrip", "removeprefix"), _to_end),
    **dict.fromkeys(("partition", "rpartition", "rsplit", "split", "splitlines"), _pieces),
    "strip": _stripped,
}
