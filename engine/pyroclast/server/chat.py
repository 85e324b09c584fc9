"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pyroclast.sampling.param_checks import MAX_LOGPROBS
from pyroclast.sampling.params import SamplingParams
from pyroclast.server.answers import (
    ChoiceReader,
    delta_json,
    logprobs_json,
    message_json,
    usage_json,
)
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import (
    SamplingFields,
    StreamOptions,
    asking,
    sampling_params,
    structure,
    structure_field,
)
from pyroclast.server.generation import Generation
from pyroclast.server.messages_in import ChatMessage, for_template
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import DONE, chunk_writer
from pyroclast.server.tools_in import MAX_TOOLS, Tool, tool_use
from pyroclast.text.answers.choose import answer_lead

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk
    from pyroclast.text.answers.delta import AnswerDelta

# -1, which LM Studio's clients send, leaves it open.
MaxTokens = Annotated[int, Meta(ge=-1)]


class ChatRequest(SamplingFields, kw_only=True):
    """The body of a chat request."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    user: str | None = None


async def chat_completions(exchange: Exchange) -> Reply:
    """Answers a conversation, at once or as a stream."""
    body = exchange.body(ChatRequest)
    served = exchange.served(body.model)
    if "audio" in (body.modalities or ()):
        raise HttpError(400, "this server writes text only", param="modalities")
    if body.top_logprobs and not body.logprobs:
        raise HttpError(400, 'top_logprobs needs "logprobs": true', param="top_logprobs")
    chat = Chat(exchange, served, body)
    await chat.prepare()
    if body.stream:
        return exchange.events(chat.events(), chat.generation)
    return exchange.json(await exchange.unless_gone(chat.whole()))


class Chat:
    """One chat request on its way through the engine.  conversation, form: what the request calls
    `messages` and `response_format`, for its refusals."""

    generation: Generation  # from `prepare` on

    def __init__(
        self,
        exchange: Exchange,
        served: Served,
        body: ChatRequest,
        *,
        conversation: str = "messages",
        form: str = "response_format",
    ) -> None:
        self._exchange, self.served, self._body = exchange, served, body
        self._conversation, self._form = conversation, form
        self._id = f"chatcmpl-{exchange.request_id}"
        self._created = int(time.time())
        self._tools = tool_use(body.tools, body.tool_choice, body.parallel_tool_calls)
        self._prompt_ids: list[int] = []
        self._head_ids: list[int] = []
        self._params = SamplingParams()
        self._write = chunk_writer(self._head("chat.completion.chunk"))

    async def count(self) -> int:
        """Renders the prompt; how many tokens it has."""
        body, served = self._body, self.served
        turns = for_template(body.messages)
        begun, template = _begun(body, turns), self._template()
        self._prompt_ids = await served.encode_chat(turns, template, self._conversation)
        if begun:
            if (end := served.open_reasoning(self._prompt_ids)) and end not in begun:
                self._prompt_ids = await self._close_reasoning(turns, template)
            if lead := answer_lead(served.parser):
                self._prompt_ids += await served.encode(lead, add_special_tokens=False)
                self._head_ids = list(self._prompt_ids)
            plain = {"add_special_tokens": False, "parse_special": False}
            self._prompt_ids += await served.encode(begun, **plain)
        return len(self._prompt_ids)

    async def _close_reasoning(
        self, turns: list[dict[str, Any]], template: dict[str, Any]
    ) -> list[int]:
        """The prompt of an answer that is begun: as the template writes it without thinking, or
        with empty reasoning where the template always opens it."""
        served = self.served
        closed = template | {"enable_thinking": False}
        ids = await served.encode_chat(turns, closed, self._conversation)
        if end := served.open_reasoning(ids):
            ids += await served.encode(f"\n{end}\n\n", add_special_tokens=False)
        return ids

    async def prepare(self) -> None:
        """Renders the prompt and checks everything, before the first byte is sent."""
        body, served = self._body, self.served
        n_prompt = await self.count()
        asked = _asked(body)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        calls = self._structure()
        asks = structure_field(body) if calls is None else "tools"
        asks = self._form if asks == "response_format" else asks
        self._params = sampling_params(
            body,
            max_tokens=served.max_tokens(asked, n_prompt, self._conversation),
            logprobs=logprobs,
            structured=calls or served.after_reasoning(structure(body), self._before_answer),
            asks=asks,
            skip_special_tokens=False,
        )
        self.generation = await self._exchange.generate(
            served, [self._prompt_ids], [self._params], structure=asks
        )

    def _template(self) -> dict[str, Any]:
        """What the chat template gets besides the messages."""
        body = self._body
        found: dict[str, Any] = dict(body.chat_template_kwargs or {})
        for name in ("reasoning_effort", "enable_thinking", "documents", "add_generation_prompt"):
            if (value := getattr(body, name)) is not None:
                found[name] = value
        if body.continue_final_message:  # its turn is begun: vLLM's clients ask for no second one
            found["add_generation_prompt"] = True
        if self._tools.tools:
            found["tools"] = self._tools.for_template()
        return found

    def _structure(self) -> dict[str, Any] | None:
        """The grammar of calls."""
        if (forced := self._tools.structure()) is not None:
            # OpenAI's response_format is for the text, of which a forced call has none.
            held = [name for name in asking(self._body) if name != "response_format"]
            if held:
                raise HttpError(
                    400, f"a forced call cannot follow {held[0]} as well", param=held[0]
                )
            return forced
        if structure(self._body) is None:
            return self._tools.strict_structure(self.served.parser)
        return None

    def reader(self) -> ChoiceReader:
        """A fresh reader for one choice."""
        return self._tools.reader(self.served, self._before_answer)

    @property
    def _before_answer(self) -> list[int]:
        """The prompt; up to the lead where an answer is begun behind one."""
        return self._head_ids or self._prompt_ids

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
                "logprobs": logprobs_json(logprobs[i] if wanted else None, self.served.tokenizer),
                "finish_reason": reader.finish_reason,
            }
            for i, reader in enumerate(readers)
        ]
        usage = usage_json(len(self._prompt_ids), n_tokens, self.generation.n_cached)
        return self._head("chat.completion") | {"choices": choices, "usage": usage}

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
                logprobs = logprobs_json(chunk.logprobs, self.served.tokenizer)
                yield self._chunk(
                    chunk.index, delta_json(delta), logprobs, reader.finish_reason, usage
                )
        if options.include_usage:
            whole = {"usage": usage_json(n_prompt, n_tokens, self.generation.n_cached)}
            yield self._write([], whole)
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
        return self._write([choice], usage)

    def _head(self, kind: str) -> dict[str, Any]:
        """The fields before the choices, the same in every event."""
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._body.model or self.served.name,
        }


def _asked(body: ChatRequest) -> int | None:
    """How many tokens are asked for; None for as many as there is room for."""
    for name in ("max_completion_tokens", "max_tokens"):
        asked: int | None = getattr(body, name)
        if asked == 0:
            raise HttpError(400, f"{name} must be at least 1, or -1 for no limit", param=name)
        if asked is not None:
            return None if asked < 0 else asked
    return None


def _begun(body: ChatRequest, turns: list[dict[str, Any]]) -> str:
    """The last turn's text, taken from `turns`, where the answer is to continue it."""
    if not body.continue_final_message:
        return ""
    if turns[-1]["role"] != "assistant" or "tool_calls" in turns[-1] or len(turns) == 1:
        raise HttpError(
            400,
            "continue_final_message needs a last message of the assistant, with text, to continue",
            param="continue_final_message",
        )
    text: str = turns.pop()["content"]
    return text
