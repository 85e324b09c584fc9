"""POST /tokenize, /detokenize, /apply-template; GET /tokenizer_info.  vLLM's shapes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast.server.errors import HttpError
from pyroclast.server.messages_in import ChatMessage, for_template
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.tools_in import MAX_TOOLS, Tool, tool_use


class TokenizeRequest(Struct):
    """A text, or a conversation."""

    prompt: str | None = None
    content: str | None = None  # llama-server's name of it
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None  # llama-server's name of it
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Struct):
    """Token ids."""

    tokens: list[Annotated[int, Meta(ge=0)]]
    model: str | None = None


class TemplateRequest(Struct):
    """A conversation."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    model: str | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


async def tokenize(exchange: Exchange) -> Reply:
    """Text or messages -> token ids."""
    body = exchange.body(TokenizeRequest)
    served = exchange.served(body.model)
    text = body.prompt if body.prompt is not None else body.content
    if (text is None) == (body.messages is None):
        raise HttpError(400, "give either prompt or messages", param="prompt")
    if body.messages is not None:
        ids = await served.encode_chat(for_template(body.messages), _template(body))
    else:
        assert text is not None
        special = body.add_special_tokens
        if special is None:  # vLLM adds them unless told not to; llama-server only if told to
            special = bool(body.add_special) if body.prompt is None else True
        ids = await served.encode(text, add_special_tokens=special)
    found: dict[str, Any] = {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": served.max_model_len,
    }
    if body.return_token_strs:
        found["token_strs"] = await served.decode_each(ids)
    return exchange.json(found)


async def detokenize(exchange: Exchange) -> Reply:
    """Token ids -> text."""
    body = exchange.body(DetokenizeRequest)
    served = exchange.served(body.model)
    n_vocab, highest = served.tokenizer.vocab_size, max(body.tokens, default=0)
    if highest >= n_vocab:
        raise HttpError(
            400, f"token id {highest} is outside the vocabulary of {n_vocab}", param="tokens"
        )
    text = await served.decode(body.tokens)
    return exchange.json({"prompt": text, "content": text})


async def apply_template(exchange: Exchange) -> Reply:
    """Messages -> the prompt as text."""
    body = exchange.body(TemplateRequest)
    served = exchange.served(body.model)
    ids = await served.encode_chat(for_template(body.messages), _template(body))
    return exchange.json({"prompt": await served.decode(ids)})


async def tokenizer_info(exchange: Exchange) -> Reply:
    """What lm-eval and others ask of a tokenizer."""
    tokenizer = exchange.served(None).tokenizer
    named = tokenizer.named_tokens
    return exchange.json(
        {
            "tokenizer_class": "Pyroclast",
            "bos_token": named.get("bos_token") or None,
            "eos_token": named.get("eos_token") or None,
            "eos_token_ids": sorted(tokenizer.eos_token_ids),
            "vocab_size": tokenizer.vocab_size,
            "chat_template": tokenizer.chat_template,
        }
    )


def _template(body: TokenizeRequest | TemplateRequest) -> dict[str, Any]:
    found: dict[str, Any] = dict(body.chat_template_kwargs or {})
    found["add_generation_prompt"] = body.add_generation_prompt
    if tools := tool_use(body.tools, None, None).for_template():
        found["tools"] = tools
    return found
