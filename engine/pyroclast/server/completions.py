"""POST /v1/completions: text or token ids in, text out; with echo, the prompt's own logprobs."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from pyroclast.sampling.params import SamplingParams
from pyroclast.server.answers import finite, token_bytes, usage_json
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import SamplingFields, StreamOptions, sampling_params, structure_field
from pyroclast.server.generation import Generation
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import DONE, chunk_writer

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk, TokenLogprobs

MAX_PROMPTS = 1024
_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(SamplingFields, kw_only=True):
    """The body of a completion request."""

    prompt: str | list[Any]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None  # -1 leaves it open
    logprobs: Annotated[int, Meta(ge=0, le=128)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    user: str | None = None


async def completions(exchange: Exchange) -> Reply:
    """Completes one prompt or several."""
    body = exchange.body(CompletionRequest)
    served = exchange.served(body.model)
    work = Completions(exchange, served, body)
    await work.prepare()
    if body.stream:
        return exchange.events(work.events(), work.generation)
    return exchange.json(await exchange.unless_gone(work.whole()))


class _Choice(Struct):
    """What came of one choice so far."""

    text: str = ""
    token_ids: list[int] = []
    logprobs: list[Any] = []
    finish_reason: str | None = None


class Completions:
    """One completion request on its way through the engine."""

    generation: Generation  # from `prepare` on

    def __init__(self, exchange: Exchange, served: Served, body: CompletionRequest) -> None:
        self._exchange, self._served, self._body = exchange, served, body
        self._id, self._created = f"cmpl-{exchange.request_id}", int(time.time())
        self._prompts: list[list[int]] = []
        self._params: list[SamplingParams] = []
        self._only_reads = bool(body.echo) and body.max_tokens == 0

    async def prepare(self) -> None:
        """Encodes the prompts and checks everything."""
        body = self._body
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise HttpError(
                400,
                "best_of is not supported; ask for n choices and take the one you like best",
                param="best_of",
            )
        if body.suffix:
            raise HttpError(400, "suffix is not supported", param="suffix")
        if body.echo and body.stream and body.logprobs is not None:
            raise HttpError(
                400,
                "logprobs of an echoed prompt cannot be streamed; leave out stream",
                param="stream",
            )
        if body.max_tokens == 0 and not body.echo:
            raise HttpError(400, "max_tokens must be at least 1 without echo", param="max_tokens")
        self._prompts = await self._encode(as_prompts(body.prompt, "prompt"))
        asked = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        # By the room, since to check a large schema takes a while; None leaves it to the engine.
        made: dict[int | None, SamplingParams] = {}
        for ids in self._prompts:
            wanted = None if asked < 0 else max(asked, 1)
            n_room = self._served.max_tokens(wanted, len(ids), "prompt")
            is_open = asked < 0 and n_room >= (body.min_tokens or 0)
            max_tokens = None if is_open else n_room
            if max_tokens not in made:
                made[max_tokens] = sampling_params(
                    body,
                    max_tokens=max_tokens,
                    logprobs=body.logprobs,
                    prompt_logprobs=body.logprobs if body.echo else None,
                )
            self._params.append(made[max_tokens])
        self.generation = await self._exchange.generate(
            self._served, self._prompts, self._params, structure=structure_field(body)
        )

    async def _encode(self, prompts: list[str | list[int]]) -> list[list[int]]:
        for prompt in prompts:
            if isinstance(prompt, list):
                self._served.check_ids(prompt, "prompt")
        special = self._body.add_special_tokens
        options = {} if special is None else {"add_special_tokens": special}
        found = await self._served.encode_prompts(prompts, **options)
        if not all(found):
            raise HttpError(400, "the prompt has no tokens", param="prompt")
        return found

    async def _all_chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """(choice, chunk) of every prompt; the prompts run together."""
        n = self._params[0].n
        async for i, chunk in self.generation.chunks():
            yield i * n + chunk.index, chunk

    async def whole(self) -> dict[str, Any]:
        """The reply that is not streamed."""
        n = self._params[0].n
        found = [_Choice() for _ in range(n * len(self._prompts))]
        heads: list[Any] = [None] * len(found)
        async for i, chunk in self._all_chunks():
            choice = found[i]
            choice.text += chunk.text
            choice.token_ids += chunk.token_ids
            choice.logprobs += chunk.logprobs or ()
            if chunk.completion is not None:
                heads[i] = chunk.completion.prompt_logprobs
            choice.finish_reason = chunk.finish_reason
        choices = [
            self._choice_json(i, choice, heads[i], self._prompts[i // n])
            for i, choice in enumerate(found)
        ]
        n_completion = 0 if self._only_reads else sum(len(c.token_ids) for c in found)
        usage = usage_json(sum(map(len, self._prompts)), n_completion, self.generation.n_cached)
        return self._head() | {"choices": choices, "usage": usage}

    def _choice_json(
        self, i: int, choice: _Choice, head: Any, prompt_ids: list[int]
    ) -> dict[str, Any]:
        text, token_ids, logprobs = choice.text, choice.token_ids, choice.logprobs
        if self._only_reads:
            text, token_ids, logprobs = "", [], []
        if self._body.echo:
            text = self._served.tokenizer.decode(prompt_ids) + text
            token_ids = prompt_ids + token_ids
            logprobs = [*(head or [None] * len(prompt_ids)), *logprobs]
        found: dict[str, Any] = {
            "index": i,
            "text": text,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        if self._body.logprobs is not None:
            found["logprobs"] = self._logprobs_json(token_ids, logprobs, 0)
        if self._body.return_token_ids:
            found |= {"token_ids": token_ids, "prompt_token_ids": prompt_ids}
        return found

    def _logprobs_json(
        self, token_ids: list[int], logprobs: Sequence[TokenLogprobs | None], offset: int
    ) -> dict[str, Any]:
        """The legacy form: parallel lists.  The first token of a prompt has no context: null."""
        name = self._token_name
        offsets, tops = [], []
        for token_id, each in zip(token_ids, logprobs, strict=True):
            offsets.append(offset)
            offset += len(name(token_id))
            tops.append(None if each is None else self._top_json(each))
        return {
            "tokens": [name(token_id) for token_id in token_ids],
            "token_logprobs": [None if x is None else finite(x.logprob) for x in logprobs],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _top_json(self, each: TokenLogprobs) -> dict[str, float]:
        """By name: of two tokens with one name, the more likely counts.  The token itself is
        always there, as OpenAI has it."""
        found: dict[str, float] = {}
        for token_id, logprob in [*each.top, (each.token_id, each.logprob)]:
            found.setdefault(self._token_name(token_id), finite(logprob))
        return found

    def _token_name(self, token_id: int) -> str:
        data = token_bytes(self._served.tokenizer, token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's events."""
        options = self._body.stream_options or StreamOptions()
        n, n_tokens = self._params[0].n, 0
        usage: dict[str, Any] = {"usage": None} if options.include_usage else {}
        n_prompt = sum(map(len, self._prompts))
        offsets = [0] * (n * len(self._prompts))
        begun: set[int] = set()
        write = chunk_writer(self._head())
        async for i, chunk in self._all_chunks():
            ids, text, logprobs = chunk.token_ids, chunk.text, list(chunk.logprobs or ())
            if self._only_reads:
                ids, text, logprobs = [], "", []
            n_tokens += len(ids)
            if self._body.echo and i not in begun:
                prompt = self._prompts[i // n]
                ids, text = prompt + ids, self._served.tokenizer.decode(prompt) + text
            begun.add(i)
            if options.continuous_usage_stats:
                usage = {"usage": usage_json(n_prompt, n_tokens, self.generation.n_cached)}
            choice: dict[str, Any] = {
                "index": i,
                "text": text,
                "logprobs": None,
                "finish_reason": chunk.finish_reason,
            }
            if self._body.logprobs is not None:
                choice["logprobs"] = self._logprobs_json(ids, logprobs, offsets[i])
                offsets[i] += sum(len(self._token_name(token_id)) for token_id in ids)
            if self._body.return_token_ids:
                choice["token_ids"] = ids
            yield write([choice], usage)
        if options.include_usage:
            yield write([], {"usage": usage_json(n_prompt, n_tokens, self.generation.n_cached)})
        yield DONE

    def _head(self) -> dict[str, Any]:
        """The fields before the choices, the same in every event."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._body.model or self._served.name,
        }


def as_prompts(prompt: str | list[Any], param: str) -> list[str | list[int]]:
    """A text, token ids, or a list of either; HttpError for anything else."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(_is_id(each) for each in prompt):
        return [prompt]
    if not 1 <= len(prompt) <= MAX_PROMPTS:
        raise HttpError(400, f"{param} must hold 1 to {MAX_PROMPTS} prompts", param=param)
    for each in prompt:
        if not (
            isinstance(each, str) or (isinstance(each, list) and each and all(map(_is_id, each)))
        ):
            raise HttpError(
                400, f"{param} must be a text, token ids, or a list of either", param=param
            )
    return prompt


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
