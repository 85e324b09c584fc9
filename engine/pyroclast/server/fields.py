"""Sampling fields of requests under OpenAI's and vLLM's names, and the parameters they become."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast.errors import SamplingError
from pyroclast.sampling.params import SamplingParams
from pyroclast.server.errors import HttpError

MAX_N = 64
MAX_STOPS = 32
MAX_STOP_CHARS = 1024

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "logit_bias",
    "allowed_token_ids",
    "n",
    "cache_salt",
)
# Fields of other servers -> the kind of structure that each asks for: vLLM's before 0.12, and
# llama-server's.  To ignore one would be to answer 200 with a text that breaks it.
_OTHER_NAMES = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "json_schema": "json",
    "grammar": "grammar",
}


class StreamOptions(Struct):
    """What a stream carries besides its chunks."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchema(Struct):
    """response_format.json_schema."""

    schema: dict[str, Any] | bool | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    """{"type": "text" | "json_object" | "json_schema", ...}.  schema: where llama-server has it."""

    type: str
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


class SamplingFields(Struct, kw_only=True):
    """Fields that every generating endpoint takes."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    min_tokens: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: str | dict[str, Any] | None = None
    grammar: str | None = None
    priority: int | None = None
    cache_salt: str | None = None


def sampling_params(
    fields: SamplingFields,
    *,
    max_tokens: int | None,
    logprobs: int | None = None,
    structured: dict[str, Any] | None = None,
    asks: str | None = None,
    **more: Any,
) -> SamplingParams:
    """The engine's parameters; HttpError 400 with the name of the field that is wrong.  asks: the
    field that asks for `structured`."""
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAME_NAME}
    if fields.seed is not None:
        given["seed"] = fields.seed % 2**64  # OpenAI's may be negative
    given["stop"] = _stops(fields.stop)
    given |= {"max_tokens": max_tokens, "logprobs": logprobs} | more
    given["structured"] = structured or structure(fields)
    if max_tokens is not None and (given["min_tokens"] or 0) > max_tokens:
        given["min_tokens"] = max_tokens
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return SamplingParams(**given)
    except SamplingError as error:
        param = str(error).split(" ", 1)[0].split("[")[0]
        if param == "structured":
            param = asks or structure_field(fields)
        raise HttpError(400, str(error), param=param) from error


def blamed(message: str, structure: str) -> str | None:
    """The field to blame for an engine's error, which begins with the name of a parameter.
    structure: the field that asks for one."""
    name = message.partition(" ")[0].partition("[")[0]
    if name == "structured":
        return structure
    return name if name in _SAME_NAME else None


def structure_field(fields: SamplingFields) -> str:
    """Which field asks for a structure."""
    return (asking(fields) or ["response_format"])[0]


def structure(fields: SamplingFields) -> dict[str, Any] | None:
    """SamplingParams.structured of the field that asks for one."""
    found = asking(fields)
    if not found:
        return None
    name, *others = found
    if others:
        raise HttpError(
            400, f"one field may ask for a structure, got {', '.join(found)}", param=name
        )
    if name in _OTHER_NAMES:
        return {_OTHER_NAMES[name]: getattr(fields, name)}
    if name == "structured_outputs":
        return _structured_outputs(fields.structured_outputs or {})
    return None if fields.response_format is None else _formatted(fields.response_format)


def asking(fields: SamplingFields) -> list[str]:
    """The fields that ask for a structure; an empty text asks for none."""
    found = ["structured_outputs"] if fields.structured_outputs else []
    form = fields.response_format
    if form is not None and form.type != "text":
        found.append("response_format")
    return found + [name for name in _OTHER_NAMES if getattr(fields, name) not in (None, "")]


def _structured_outputs(options: dict[str, Any]) -> dict[str, Any]:
    """One kind of structure.  vLLM's client sends every field, those that are off as well."""
    known = {"json", "json_object", "regex", "choice", "grammar"}
    given = {k: v for k, v in options.items() if v is not None and v is not False}
    wrong = sorted(set(given) - known)
    if wrong or len(given) != 1:
        raise HttpError(
            400,
            f"structured_outputs takes exactly one of {', '.join(sorted(known))}, got "
            f"{', '.join(sorted(given)) or 'none'}",
            param="structured_outputs",
        )
    return given


def _formatted(form: ResponseFormat) -> dict[str, Any]:
    """The structure of a response_format that is not text."""
    if form.type == "json_object":
        return {"json": form.schema} if form.schema else {"json_object": True}
    if form.type == "json_schema":
        schema = form.schema if form.json_schema is None else form.json_schema.schema
        if schema is None:
            raise HttpError(
                400,
                "response_format.json_schema.schema is missing",
                param="response_format.json_schema.schema",
            )
        return {"json": schema}
    raise HttpError(
        400,
        f"response_format.type must be text, json_object or json_schema, got {form.type!r:.40}",
        param="response_format.type",
    )


def _stops(stop: str | list[str] | None) -> list[str] | None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        message = f"at most {MAX_STOPS} stop strings are allowed, got {len(stops)}"
        raise HttpError(400, message, param="stop")
    if any(len(each) > MAX_STOP_CHARS for each in stops):
        raise HttpError(400, f"a stop string has at most {MAX_STOP_CHARS} characters", param="stop")
    return [each for each in stops if each] or None


def unknown_fields(body: dict[str, Any], kind: type[Struct]) -> list[str]:
    """The names in a body that its type does not have: accepted, and reported in a header."""
    # Not msgspec.structs.fields: it evaluates every annotation again, half a millisecond of each
    # request in which no stream is written.
    return sorted(body.keys() - set(kind.__struct_encode_fields__))
