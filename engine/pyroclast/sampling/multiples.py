"""Which `multipleOf` of a JSON schema a grammar can hold.

llguidance makes an automaton with a state for each remainder.  Several multiples that hold for one
number make a state for each remainder by their least common multiple: three primes of six digits
would take all memory, and none of llguidance's own limits counts these states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

MAX_REMAINDERS = 100_000  # compiled in some 5 seconds

_IN_PLACE = ("allOf", "anyOf", "oneOf")  # lists of schemas for the same value
_LISTS = ("prefixItems", "items")
_SINGLE = ("items", "additionalItems", "additionalProperties", "contains", "propertyNames")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def too_many_remainders(schema: Mapping[str, Any]) -> str | None:
    """The multiples that together have more than MAX_REMAINDERS remainders, or None.  Schemas that
    may hold for one value are taken together, also those of a choice.  An integer's own multiple
    counts for nothing: its states are made as they are met."""
    for multiples in _groups(schema).values():
        if _remainders(multiples) > MAX_REMAINDERS:
            return ", ".join(str(each)[:40] for each in sorted(multiples)[:4])
    return None


def _remainders(multiples: set[Decimal]) -> int:
    """Their least common multiple, counted in the last decimal place that one of them has."""
    exponents = [each.as_tuple().exponent for each in multiples]
    places = max(0, -min(exponent for exponent in exponents if isinstance(exponent, int)))
    common = 1
    for each in multiples:
        common = math.lcm(common, int(each.scaleb(places)))
        if common > MAX_REMAINDERS:
            break
    return common


def _groups(schema: Mapping[str, Any]) -> dict[str, set[Decimal]]:
    """The multiples of each group of schemas that may hold for one value.  A group is named by the
    last part of the references to it, or else has a number."""
    found: dict[str, set[Decimal]] = {}
    parent: dict[str, str] = {}
    referred, is_clear = _referred(schema)
    waiting: list[tuple[Any, str]] = [(schema, "#")]
    n_groups = 0
    while waiting:
        each, group = waiting.pop()
        if not isinstance(each, Mapping):
            continue
        if (value := _multiple(each)) is not None:
            found.setdefault(group if is_clear else "#", set()).add(value)
        if isinstance(reference := each.get("$ref"), str):
            parent[_root(parent, group)] = _root(parent, reference.rpartition("/")[2])
        for keyword in _IN_PLACE:
            if isinstance(members := each.get(keyword), list | tuple):
                waiting += [(member, group) for member in members]
        for name, child in _children(each):
            n_groups += 1
            waiting.append((child, name if name in referred else f"/{n_groups}"))
    joined: dict[str, set[Decimal]] = {}
    for group, multiples in found.items():
        joined.setdefault(_root(parent, group), set()).update(multiples)
    return joined


def _referred(schema: Mapping[str, Any]) -> tuple[set[str], bool]:
    """(the last part of each reference, whether all of them are paths to such schemas as
    `_children` names)."""
    names, is_clear = set(), True
    waiting: list[Any] = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += each.values()
            if isinstance(reference := each.get("$ref"), str):
                names.add(reference.rpartition("/")[2])
                steps = reference.split("/")
                is_clear &= steps[0] == "#" and not set(steps) & set(_IN_PLACE)
        elif isinstance(each, list | tuple):
            waiting += each
    return names, is_clear


def _multiple(schema: Mapping[str, Any]) -> Decimal | None:
    value = schema.get("multipleOf")
    if schema.get("type") == "integer" or isinstance(value, bool):
        return None
    # Not isfinite, which takes no integer above the largest float.
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        return None  # llguidance refuses it
    return Decimal(str(value)) if value < 1e15 else Decimal(10) ** 15


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas in a schema that hold for other values, and the last part of their paths."""
    for keyword in _SINGLE:
        if isinstance(child := schema.get(keyword), Mapping):
            yield keyword, child
    for keyword in _LISTS:
        if isinstance(members := schema.get(keyword), list | tuple):
            yield from ((str(i), member) for i, member in enumerate(members))
    for keyword in _NAMED:
        if isinstance(members := schema.get(keyword), Mapping):
            yield from ((str(name), member) for name, member in members.items())


def _root(parent: dict[str, str], group: str) -> str:
    while (above := parent.get(group, group)) != group:
        parent[group] = parent.get(above, above)
        group = above
    return group
