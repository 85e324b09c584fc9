import time
import tracemalloc

import pytest

from pyroclast.errors import TemplateError
from pyroclast.text import template_meter
from pyroclast.text.chat import ChatTemplate


def render(source):
    return ChatTemplate(source).render([{"role": "user", "content": "hi"}])


def loop(body, n=99999):
    return "{% for i in range(" + str(n) + ") %}" + body + "{% endfor %}"


def grown(start, step, n=60):
    return "{% set ns = namespace(x=" + start + ") %}" + loop("{% set ns.x = " + step + " %}", n)


NEST = grown("(1,)", "(ns.x, ns.x)")
TWIN = NEST + "{% set mine = ns %}" + NEST
CALLS_TWICE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
ENDLESS = {
    "loops in loops": loop(loop("")),
    "a filtered loop": loop("{% for j in range(99999) if false %}{% endfor %}"),
    "loops in a block": "{% set x %}" + loop(loop("a")) + "{% endset %}",
    "text without end": loop(loop("x" * 999)),
    "a long sort": loop("{{ range(99999) | sort | length }}"),
    "a search": loop("{{ 'x' in range(99999) | map('string') }}"),
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": CALLS_TWICE + "{{ f(90) }}",
    "a recursive loop": "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "a doubled string": grown("'aaaa'", "ns.x + ns.x"),
    "a doubled string by ~": grown("'aaaa'", "ns.x ~ ns.x"),
    "a doubled string by %": grown("'aaaa'", "'%s%s' % (ns.x, ns.x)"),
    "many long strings": grown("[]", "ns.x + ['a' * 99999 ~ i]", 9999),
    "many lists": grown("[]", "[ns.x, range(9999) | list]", 9999),
    "a printed nest": NEST + "{{ ns.x }}",
    "a printed namespace": NEST + "{{ ns }}",
    "a namespace in a list": NEST + "{{ [ns] | string }}",
    "a nest as JSON": NEST + "{{ ns.x | tojson }}",
    "a compared nest": TWIN + "{{ ns.x == mine.x }}",
    "a tested nest": TWIN + "{{ ns.x is eq mine.x }}",
    "a nest as a key": NEST + "{{ {ns.x: 1} }}",
    "a nest as an index": NEST + "{{ {1: 1}[ns.x] }}",
    "a nest in a filter": NEST + "{{ [ns.x] | unique | list }}",
    "a formatted nest": NEST + "{{ '%s' % (ns,) }}",
    "a refused nest": NEST + "{{ raise_exception(ns.x) }}",
}
LARGE = {
    "range": "{% for i in range(10**8) %}{% endfor %}",
    "string times number": "{{ 'a' * 1000000000 }}",
    "number times list": "{{ 1000000000 * [1] }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "product": grown("3", "ns.x * ns.x"),
    "center": "{{ 'a'.center(10 ** 9) }}",
    "center filter": "{{ 'a' | center(1000000000) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "nested format width": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10 ** 9, 1) }}",
    "percent filter": "{{ '%1000000000d' | format(1) }}",
    "repeated field": "{{ ('{0}' * 99999).format('a' * 99999) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
    "replace in a list": "{{ ([1] * 99999) | replace('1', 'b' * 99999) }}",
    "join": "{{ ('b' * 99999).join('a' * 99999) }}",
    "join filter": "{{ range(99999) | join(d='b' * 99999) }}",
    "mapped": "{{ range(99999) | map('replace', '', 'b' * 99999) | list | length }}",
    "indent": "{{ ('a\n' * 99999) | indent(9999) }}",
    "JSON indent": "{{ [[1] * 999] | tojson(indent=10 ** 9) }}",
    "bytes": "{{ (5).to_bytes(10 ** 9, 'big') }}",
    "translate": "{{ 'a'.translate({97: 'b' * 99999}) }}",
    "truncate": "{{ 'a' | truncate(1, end='b' * 10 ** 9) }}",
    "lipsum": "{{ lipsum(n=10 ** 6) }}",
}


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_a_template_that_takes_too_much_is_stopped(name, monkeypatch):
    monkeypatch.setattr(template_meter, "_CPU_SECONDS", 0.3)
    start = time.thread_time()
    with pytest.raises(TemplateError):
        render({**ENDLESS, **LARGE}[name])
    assert time.thread_time() - start < 2  # the limit, and one step that was under way


@pytest.mark.parametrize("name", ["a doubled string", "many long strings", "mapped"])
def test_memory_stays_bounded(name):
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            render({**ENDLESS, **LARGE}[name])
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__ }}",
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ '{0.__class__}'.format('a') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_that_reaches_outside_is_refused(source):
    with pytest.raises(TemplateError):
        render(source)
