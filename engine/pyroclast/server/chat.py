"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from pyroclast.sampling.params import MAX_LOGPROBS, SamplingParams
from pyroclast.server.answers import (
    ChoiceReader,
    ForcedCallParser,
    RequiredCallsParser,
    delta_json,
    logprobs_json,
    message_json,
    parameters_of,
    required_calls_schema,
    usage_json,
)
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import (
    SamplingFields,
    StreamOptions,
    sampling_params,
    structure,
    structure_field,
)
from pyroclast.server.generation import Generation
from pyroclast.server.messages_in import ChatMessage, for_template
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import DONE, event
from pyroclast.server.tool_grammar import strict_grammar

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk
    from pyroclast.text.answers.delta import AnswerDelta

MAX_TOOLS = 512


class ToolFunction(Struct):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """{"type": "function", "function": {...}}."""

    function: ToolFunction
    type: str = "function"


class ChatRequest(SamplingFields, kw_only=True):
    """The body of a chat request."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    documents: list[dict[str, Any]] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    user: str | None = None


async def chat_completions(exchange: Exchange) -> Reply:
    """Answers a conversation, at once or as a stream."""
    body = exchange.body(ChatRequest)
    served = exchange.served(body.model)
    if "audio" in (body.modalities or ()):
        raise HttpError(400, "this server writes text only", param="modalities")
    chat = Chat(exchange, served, body)
    await chat.prepare()
    if body.stream:
        return exchange.events(chat.events(), chat.generation)
    return exchange.json(await exchange.unless_gone(chat.whole()))


class Chat:
    """One chat request on its way through the engine."""

    generation: Generation  # from `prepare` on

    def __init__(self, exchange: Exchange, served: Served, body: ChatRequest) -> None:
        self._exchange, self._served, self._body = exchange, served, body
        self._id = f"chatcmpl-{exchange.request_id}"
        self._created = int(time.time())
        self._tools = _tools(body)
        self._prompt_ids: list[int] = []
        self._params = SamplingParams()

    async def prepare(self) -> None:
        """Renders the prompt and checks everything, before the first byte is sent."""
        body, served = self._body, self._served
        turns = for_template(body.messages)
        self._prompt_ids = await served.encode_chat(turns, self._template())
        asked = body.max_completion_tokens or body.max_tokens
        n_prompt = len(self._prompt_ids)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        self._params = sampling_params(
            body,
            max_tokens=served.max_tokens(asked, n_prompt, "messages"),
            logprobs=logprobs,
            structured=self._forced_structure()
            or served.after_reasoning(structure(body), self._prompt_ids),
            skip_special_tokens=False,
        )
        self.generation = await self._exchange.generate(
            served, [self._prompt_ids], [self._params], structure=structure_field(body)
        )

    def _template(self) -> dict[str, Any]:
        """What the chat template gets besides the messages."""
        body = self._body
        found: dict[str, Any] = dict(body.chat_template_kwargs or {})
        for name in ("reasoning_effort", "enable_thinking", "documents", "add_generation_prompt"):
            if (value := getattr(body, name)) is not None:
                found[name] = value
        if self._tools:
            found["tools"] = [_for_template(tool) for tool in self._tools]
        return found

    def _forced_structure(self) -> dict[str, Any] | None:
        """The grammar of a call that tool_choice demands."""
        choice = self._body.tool_choice
        if choice == "required" and self._tools:
            return {"json": required_calls_schema(self._tools)}
        if isinstance(choice, dict):
            return {"json": parameters_of(self._chosen(choice))}
        if structure(self._body) is None:
            return strict_grammar(self._served.parser, self._tools)
        return None

    def _chosen(self, choice: dict[str, Any]) -> dict[str, Any]:
        name = (choice.get("function") or choice).get("name")
        for tool in self._tools:
            if tool["function"]["name"] == name:
                return tool
        raise HttpError(
            400, f"tool_choice names {name!r:.80}, which is none of the tools", param="tool_choice"
        )

    def reader(self) -> ChoiceReader:
        """A fresh reader for one choice."""
        choice = self._body.tool_choice
        if isinstance(choice, dict):
            return ChoiceReader(ForcedCallParser(self._chosen(choice)["function"]["name"]))
        if choice == "required" and self._tools:
            return ChoiceReader(RequiredCallsParser())
        return ChoiceReader(self._served.answer_parser(self._prompt_ids, self._tools))

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self._prompt_ids)

    async def deltas(self, reader: ChoiceReader) -> AsyncGenerator[tuple[AnswerDelta, Chunk], None]:
        """What each chunk of the one choice adds: for the endpoints that write it differently."""
        async for _, chunk in self.generation.chunks():
            yield reader.read(chunk), chunk

    async def whole(self) -> dict[str, Any]:
        """The reply that is not streamed."""
        readers = [self.reader() for _ in range(self._params.n)]
        logprobs: list[list[Any]] = [[] for _ in readers]
        n_tokens = 0
        async for _, chunk in self.generation.chunks():
            readers[chunk.index].read(chunk)
            logprobs[chunk.index] += chunk.logprobs or ()
            n_tokens += len(chunk.token_ids)
        wanted = self._params.logprobs is not None
        choices = [
            {
                "index": i,
                "message": message_json(reader.answer),
                "logprobs": logprobs_json(logprobs[i] if wanted else None, self._served.tokenizer),
                "finish_reason": reader.finish_reason,
            }
            for i, reader in enumerate(readers)
        ]
        usage = usage_json(len(self._prompt_ids), n_tokens, self.generation.n_cached)
        return self._object("chat.completion", choices) | {"usage": usage}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's events."""
        options = self._body.stream_options or StreamOptions()
        readers = [self.reader() for _ in range(self._params.n)]
        n_prompt, n_tokens = len(self._prompt_ids), 0
        usage: dict[str, Any] = {"usage": None} if options.include_usage else {}
        first = [{"role": "assistant", "content": ""} for _ in readers]
        yield b"".join(self._chunk(i, delta, None, None, usage) for i, delta in enumerate(first))
        async for _, chunk in self.generation.chunks():
            n_tokens += len(chunk.token_ids)
            reader = readers[chunk.index]
            delta = reader.read(chunk)
            if options.continuous_usage_stats:
                usage = {"usage": usage_json(n_prompt, n_tokens, self.generation.n_cached)}
            if delta or chunk.logprobs or reader.finish_reason:
                logprobs = logprobs_json(chunk.logprobs, self._served.tokenizer)
                yield self._chunk(
                    chunk.index, delta_json(delta), logprobs, reader.finish_reason, usage
                )
        if options.include_usage:
            whole = {"usage": usage_json(n_prompt, n_tokens, self.generation.n_cached)}
            yield event(self._object("chat.completion.chunk", []) | whole)
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
        usage: dict[str, Any],
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return event(self._object("chat.completion.chunk", [choice]) | usage)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._body.model or self._served.name,
            "choices": choices,
        }


def _for_template(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool without what is for us alone."""
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {"type": "function", "function": function}


def _tools(body: ChatRequest) -> list[dict[str, Any]]:
    """The tools as the template gets them; none where tool_choice forbids calls."""
    if body.tool_choice == "none" or not body.tools:
        return []
    if isinstance(body.tool_choice, str) and body.tool_choice not in ("auto", "required"):
        raise HttpError(
            400,
            f"tool_choice must be none, auto, required or a function, got {body.tool_choice!r:.40}",
            param="tool_choice",
        )
    return [
        {
            "type": "function",
            "function": {
                name: value
                for name in ("name", "description", "parameters", "strict")
                if (value := getattr(tool.function, name)) is not None
            },
        }
        for tool in body.tools
        if tool.type == "function"
    ]
