"""What the endpoints reply, as types: OpenAPI is made of them, and tests hold replies to them.

Replies are built as dicts, which is quicker; these types are never instantiated."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class CachedTokens(Struct):
    """How many prompt tokens were not computed."""

    cached_tokens: int


class Usage(Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CallFunction(Struct):
    """arguments: the text of a JSON object."""

    name: str
    arguments: str


class Call(Struct):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CallFunction


class Message(Struct):
    """The model's turn."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class TokenLogprob(Struct):
    """A token and its log-probability; bytes: of its text."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """A token of the answer, and the most likely ones in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Struct):
    """One entry for each token."""

    content: list[ChosenLogprob]


class ChatChoice(Struct):
    """One of n answers."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatReply(Struct):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Struct):
    """Parallel lists; the first token of an echoed prompt has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Struct):
    """One of n texts of one of the prompts."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextReply(Struct):
    """A completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class TextBlock(Struct, tag_field="type", tag="text"):
    """Text for the reader."""

    text: str


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """The model's reasoning."""

    thinking: str
    signature: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class MessagesUsage(Struct):
    """Tokens read and written."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessagesReply(Struct):
    """Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessagesUsage


class CountReply(Struct):
    """The tokens of a conversation."""

    input_tokens: int


class Embedding(Struct):
    """embedding: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Struct):
    """A vector for each text."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Struct):
    """A model: OpenAI's and Anthropic's fields, vLLM's max_model_len, llama-server's meta."""

    id: str
    object: Literal["model"]
    type: Literal["model"]
    display_name: str
    created: int
    created_at: str
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    meta: dict[str, int]
    architecture: dict[str, list[str]]


class ModelsReply(Struct):
    """Every model."""

    object: Literal["list"]
    data: list[Model]
    models: list[dict[str, str]]
    first_id: str
    last_id: str
    has_more: bool


class TokenizeReply(Struct):
    """Token ids."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | UnsetType = UNSET


class DetokenizeReply(Struct):
    """A text under vLLM's and llama-server's names."""

    prompt: str
    content: str


class TemplateReply(Struct):
    """The prompt as text."""

    prompt: str


class TokenizerReply(Struct):
    """Names of special tokens, and more."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: list[int]
    vocab_size: int
    chat_template: str | None


class HealthReply(Struct):
    """Whether the server lives."""

    status: Literal["ok"]


class VersionReply(Struct):
    """Pyroclast's version."""

    version: str


class ErrorDetail(Struct):
    """param: the field that is to blame.  code: what programs read."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Struct):
    """A refusal that says why."""

    error: ErrorDetail
