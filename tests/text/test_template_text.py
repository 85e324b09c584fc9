"""What a template does with marked text: the characters that jinja2 gives, marks on its own alone.

The template's words and the messages' are of two alphabets, so that each character of a result
shows who wrote it.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyroclast.errors import TemplateError
from pyroclast.text.chat import ChatTemplate
from pyroclast.text.template_text import TemplateText, literal, written

TEMPLATES = frozenset("aAbBßsS<>|.! \n")
MESSAGES = frozenset(
    "жЖ\u03c3ΣςİiI\u0307\u3000"
)  # İ becomes two characters, ς depends on its place

# {0} and {1} are texts, {2} and {3} words of the template.  These keep every mark.
KEEPING = """{0} ~ {1}
{0} + {1}
({0}) | lower
({0}).upper()
({0}).swapcase()
({0}).casefold()
({0}) | capitalize
({0}) | trim
({0}).strip()
({0}).lstrip('a')
({0}).rstrip({2})
[{0}, {1}] | join({2})
({2}).join([{0}, {1}])
({0}).split() | join('.')
({0}).split('a') | join('b')
({0}).split(none, 1) | join
({0}).rsplit(none, 1) | join('.')
({0}).rsplit('<', 1)[-1]
({0}).splitlines() | join({2})
({0}).partition('<')[2]
({0}).rpartition('<')[0]
({0}).removeprefix('a')
({0}).removesuffix('>')
({0})[1:]
({0})[:-1]
({0})[::-1]
({0}) * 2
2 * ({0})
'%s.%s' % ({0}, {1})
'%(k)s!' % {{'k': {0}}}
'<{{}}>{{x}}'.format({0}, x={1})
({0}) if {1} else ({1})
wrap({0})
{{'k': {0}}}.k
({0}) | default({1})
[{0}, {1}] | map('upper') | join
[{0}, {1}] | sort | join
({0}) | string | safe"""
OTHERS = """({0}) | tojson
[{0}] | string
({0}) | title
({0}).title()
({0}) | indent(1)
({0}) | reverse
({0}) | list | join
({0}) | first
({0}) | truncate(3, true)
'%-4s%%' % ({0})
'{{0!r:>5}}'.format({0})
({0}).replace({2}, {1})
({0}) | replace({1}, {3})
({0}).split(maxsplit=1, sep='a') | join
({0})[0]"""


words = st.text("aBß<> \n", max_size=4).map(lambda text: json.dumps(text, ensure_ascii=False))
contents = st.text("жЖ\u03c3Σİ\u3000", max_size=6)
atoms = st.sampled_from(["messages[0].content", "messages[1].content", "messages[0]['name']"])
run = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def expressions(forms):
    def larger(inner):
        fill = st.builds(
            str.format, st.sampled_from(forms.splitlines()), inner, inner, words, words
        )
        return fill.map("({})".format)

    return st.recursive(words | atoms, larger, max_leaves=8)


def of(expression, first, second, name):
    """(what jinja2 makes of an expression, our text, our marks)."""
    macro = "{% macro wrap(x) %}<{{ x }}>{% endmacro %}"
    block = "{% set v %}" + "{{ " + expression + " }}" + "{% endset %}"
    source = macro + block + "{% for m in messages %}{{ v }}{% endfor %}"
    messages = [
        {"role": "Ж", "content": first, "name": name},
        {"role": "Ж", "content": second},
    ]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        expected = environment.from_string(source).render(messages=messages)
    except (TypeError, ValueError, IndexError, UndefinedError, SecurityError):
        with pytest.raises(TemplateError):
            ChatTemplate(source).render(messages)
        return None
    text, marks = ChatTemplate(source).render_written(messages)
    assert text == expected
    assert type(text) is str
    return text, marks


@run
@given(expressions(KEEPING), contents, contents, contents)
def test_marks_follow_each_character(expression, first, second, name):
    if result := of(expression, first, second, name):
        for char, mark in zip(*result, strict=True):
            assert char in (TEMPLATES if mark else MESSAGES), (expression, result)


@run
@given(expressions(KEEPING + "\n" + OTHERS), contents, contents, contents)
def test_nothing_of_a_message_is_ever_marked(expression, first, second, name):
    if result := of(expression, first, second, name):
        for char, mark in zip(*result, strict=True):
            assert not (mark and char in MESSAGES), (expression, result)


def test_what_replaces_a_message_is_a_messages():
    text = literal("a") + "a"
    mixed = TemplateText("aa", b"\1\0")
    assert written(text) == b"\0\0"  # Python's own + makes plain text
    source = "{{ ('b' ~ messages[0].content).replace('b', '<x>') }}"
    text, marks = ChatTemplate(source).render_written([{"role": "user", "content": "b"}])
    assert (text, marks) == ("<x><x>", b"\1\1\1\0\0\0")
    assert written(mixed[::-1]) == b"\0\1"


def test_a_pattern_in_a_message_is_a_messages():
    source = "{{ messages[0].content % '<x>' }}{{ messages[0].content.format('<x>') }}"
    text, marks = ChatTemplate(source).render_written([{"role": "user", "content": "{}%s"}])
    assert text == "{}<x><x>%s"
    assert 1 not in marks


@pytest.mark.parametrize(
    ("expression", "marks"),
    [
        ("('<a>' | safe) + '&b' + messages[0].content", "1" * 9 + "0" * 5),
        ("messages[0].content + ('<a>' | safe)", "0" * 5 + "111"),
        ("(messages[0].content | safe) + '<'", "001111"),
        ("('<' | safe) + ({'k': '<'} | tojson)", "1" + "0" * 29),
        ("('<' | safe) ~ '<'", "11"),
        ("('<' | safe) + ('<' | safe)", "11"),
        ("(('<' | safe) ~ '') + '<'", "11"),
    ],
)
def test_what_is_added_to_a_safe_text_is_escaped(expression, marks):
    """Nobody wants that of a prompt, but it is what transformers renders."""
    text, found = of(expression, "<ж", "", "")
    assert "".join(map(str, found)) == 2 * marks, text  # once for each message
