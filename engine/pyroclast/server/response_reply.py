"""What POST /v1/responses replies, as types for OpenAPI (see replies.py)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class OutputText(Struct):
    """A part of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class ReasoningText(Struct):
    """A part of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class OutputMessage(Struct, tag_field="type", tag="message"):
    """Text for the reader."""

    id: str
    status: Literal["completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(Struct, tag_field="type", tag="reasoning"):
    """The model's reasoning."""

    id: str
    status: Literal["completed", "incomplete"]
    summary: list[Any]
    content: list[ReasoningText]


class OutputCall(Struct, tag_field="type", tag="function_call"):
    """A call of a tool; arguments is the text of a JSON object."""

    id: str
    status: Literal["completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class OutputFormat(Struct):
    """text.format."""

    type: Literal["text", "json_object", "json_schema"]


class OutputOptions(Struct):
    """text."""

    format: OutputFormat


class InputDetails(Struct):
    """How many input tokens were not computed."""

    cached_tokens: int


class OutputDetails(Struct):
    """How many output tokens were reasoning."""

    reasoning_tokens: int


class ResponseUsage(Struct):
    """Tokens read and written."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseTools(Struct):
    """A function that the model could call."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class Incomplete(Struct):
    """Why the answer ended early."""

    reason: Literal["max_output_tokens"]


class ResponseReply(Struct):
    """The ResponseResource of Open Responses: every field that it requires."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete"]
    incomplete_details: Incomplete | None
    model: str
    previous_response_id: None
    instructions: str | None
    output: list[OutputMessage | OutputReasoning | OutputCall]
    error: None
    tools: list[ResponseTools]
    tool_choice: str | dict[str, Any]
    truncation: Literal["disabled"]
    parallel_tool_calls: bool
    text: OutputOptions
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: dict[str, Any] | None
    usage: ResponseUsage
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, Any]
    safety_identifier: str | None
    prompt_cache_key: str | None
    user: str | None


class InputTokensReply(Struct):
    """The tokens of an input."""

    object: Literal["response.input_tokens"]
    input_tokens: int
