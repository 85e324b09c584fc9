"""What a responses request says, and the same as the chat endpoint has it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from pyroclast.server.chat import ChatRequest
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import MAX_STOPS, JsonSchema, ResponseFormat
from pyroclast.server.messages_in import ChatMessage
from pyroclast.server.response_items import input_messages
from pyroclast.server.tools_in import MAX_TOOLS, Tool, ToolFunction


class ResponseTool(Struct):
    """A function; tools of other types, which run elsewhere, are ignored."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Struct):
    """text.format: {"type": "text" | "json_object" | "json_schema", ...}."""

    type: str = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Struct):
    """What the text must look like."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Struct):
    """How much to think."""

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(Struct, kw_only=True):
    """The body of a responses request."""

    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stream: bool | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    truncation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None
    chat_template_kwargs: dict[str, Any] | UnsetType = UNSET
    cache_salt: str | None = None
    # vLLM's names of what OpenAI's API does not have:
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    priority: int | None = None


_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "cache_salt",
)
_FORMATS = ("text", "json_object", "json_schema")
# Fields that need what this server does not keep, and what to do instead.
_NEED_STATE = {
    "previous_response_id": "this server keeps no responses: send the whole conversation as input",
    "conversation": "this server keeps no conversations: send the whole conversation as input",
    "prompt": "this server keeps no prompts: send the text as instructions and input",
    "background": "background responses are not supported",
}


def refuse_state(body: ResponsesRequest) -> None:
    """The server keeps no responses: what needs them is refused, not ignored."""
    wrong = {name: text for name, text in _NEED_STATE.items() if getattr(body, name)}
    if body.truncation not in (None, "disabled"):
        wrong["truncation"] = "this server never cuts a prompt; truncation must be 'disabled'"
    if "message.output_text.logprobs" in (body.include or ()):
        wrong["include"] = "this endpoint gives no logprobs; /v1/chat/completions does"
    for name, text in wrong.items():
        raise HttpError(400, text, param=name, code="unsupported_parameter")


def as_chat(body: ResponsesRequest) -> ChatRequest:
    """The same request as the chat endpoint has it."""
    messages: list[ChatMessage] = []
    if body.instructions:
        messages.append(ChatMessage("system", body.instructions))
    if isinstance(body.input, str):
        messages.append(ChatMessage("user", body.input))
    else:
        messages += input_messages(body.input)
    tools = [
        Tool(ToolFunction(tool.name, tool.description, tool.parameters, tool.strict))
        for tool in body.tools or ()
        if tool.type == "function" and tool.name
    ]
    kwargs = body.chat_template_kwargs
    return ChatRequest(
        messages=messages,
        model=body.model,
        max_tokens=body.max_output_tokens,
        tools=tools or None,
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        chat_template_kwargs=kwargs if isinstance(kwargs, dict) else None,
        **{name: getattr(body, name) for name in _SAME_NAME},
    )


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """{"type": "function", "name": ...} as the chat endpoint has it; other kinds leave the choice
    to the model."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice if choice.get("type") == "allowed_tools" else "auto"


def _format(text: TextOptions | None) -> ResponseFormat | None:
    form = None if text is None else text.format
    if form is None:
        return None
    if form.type not in _FORMATS:
        raise HttpError(
            400,
            f"text.format.type must be text, json_object or json_schema, got {form.type!r:.40}",
            param="text.format.type",
        )
    if form.type == "json_schema" and form.schema is None:
        raise HttpError(400, "text.format.schema is missing", param="text.format.schema")
    return ResponseFormat(form.type, JsonSchema(form.schema, form.name, form.strict))
