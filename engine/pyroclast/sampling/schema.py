"""What a JSON schema may say so that every text which its grammar completes is valid.

llguidance refuses the keywords that it does not know.  This file refuses what it takes and does not
hold wholly: the names below, and numbers that it rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.multiples import MAX_REMAINDERS, too_many_remainders

_OPTIONS = "x-guidance"
# llguidance's options for every schema.  No \u: with it a name that no keyword lists could spell
# one that a keyword does.
HELD_OPTIONS: Any = {"json_allowed_escapes": '"\\bfnrt'}
_MAX_INT64 = 2**63 - 1  # llguidance clamps larger bounds to it, so it is exact
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not")
_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07")
_ESCAPABLE = "\b\t\n\f\r"  # control characters that JSON escapes with a letter


def check_enforced(name: str, schema: Any) -> None:
    """SamplingError, with the keyword, for a schema that the text could violate."""
    if isinstance(schema, Mapping):
        if _OPTIONS in schema:
            _check_options(name, schema[_OPTIONS])
        is_old = any(draft in str(schema.get("$schema")) for draft in _OLD_DRAFTS)
        for each in _subschemas(schema):
            if is_old and "$ref" in each and each is not schema and each.keys() & {"$id", "id"}:
                raise _refused(name, "$id", "next to a $ref, which hides it before draft 2019-09")
            for keyword, check in _CHECKS.items():
                if keyword in each and (why := check(each, each[keyword])):
                    raise _refused(name, keyword, why)
        if (multiples := too_many_remainders(schema)) is not None:
            why = f"with {multiples}: together they have more than {MAX_REMAINDERS} remainders"
            raise _refused(name, "multipleOf", why)


def _refused(name: str, keyword: str, why: str) -> SamplingError:
    return SamplingError(f"{name} cannot be held: {keyword} is not supported {why}")


def _check_options(name: str, options: Any) -> None:
    """llguidance's options that a schema may carry: white space only.  The others write what is no
    JSON, or hold a part of the schema only."""
    if not isinstance(options, Mapping):
        raise _refused(name, _OPTIONS, "unless it is an object")
    for option, value in options.items():
        separator = {"item_separator": ",", "key_separator": ":"}.get(option)
        if separator is not None and isinstance(value, str) and value.strip(" \n") == separator:
            continue
        if option != "whitespace_flexible":
            # It may hold half a character, which nothing can print.
            shown = ascii(str(option))[1:-1]
            raise _refused(
                name,
                f"{_OPTIONS}.{shown:.80}",
                "with this value; allowed are whitespace_flexible, item_separator and "
                "key_separator, these two with spaces around the sign",
            )


def _subschemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and those in it."""
    waiting: list[Any] = [schema]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping):
            continue
        yield each
        waiting += [each[keyword] for keyword in _SINGLE if keyword in each]
        for keyword in _LISTS:
            if isinstance(found := each.get(keyword), list | tuple):
                waiting += found
        for keyword in _MAPS:
            if isinstance(found := each.get(keyword), Mapping):
                waiting += found.values()


def _min_properties(schema: Mapping[str, Any], value: Any) -> str | None:
    """A name that no keyword lists may come twice, and then counts once."""
    required = schema.get("required")
    n_required = len(required) if isinstance(required, list | tuple) else 0
    if not isinstance(value, int | float) or value <= n_required + 1:
        return None
    if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
        return None
    return (
        f"above the number of required properties + 1 ({n_required + 1}) where names are free; "
        "list the properties and set additionalProperties to false"
    )


def _bound(_: Mapping[str, Any], value: Any) -> str | None:
    if _is_exact(value) or value == _MAX_INT64:
        return None
    return f"with {value}, which float64 rounds"


def _constants(_: Mapping[str, Any], value: Any) -> str | None:
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple):
            waiting += each
        elif not _is_exact(each):
            return f"with {each}, which float64 rounds"
        elif isinstance(each, str) and any(c < " " and c not in _ESCAPABLE for c in each):
            return f"with a control character, in {json.dumps(each)[:80]}"
    return None


def _is_exact(value: Any) -> bool:
    """Numbers are held as float64."""
    if not isinstance(value, int) or isinstance(value, bool):
        return True
    return abs(value) < 1 << 1023 and int(float(value)) == value


_CHECKS: dict[str, Callable[[Mapping[str, Any], Any], str | None]] = {
    "minProperties": _min_properties,
    **dict.fromkeys(_BOUNDS, _bound),
    **dict.fromkeys(("const", "enum"), _constants),
}
