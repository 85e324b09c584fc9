"""The models that a server answers for, by name, and what their requests have in common."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pyroclast.errors import RequestError, TemplateError
from pyroclast.server.errors import HttpError, overflow
from pyroclast.text.answers.choose import parser_for, parser_name, reasoning_marks
from pyroclast.text.answers.parser import AnswerParser

if TYPE_CHECKING:
    from pyroclast.async_llm import AsyncLLM
    from pyroclast.text.tokenizer import Tokenizer

T = TypeVar("T")

DEFAULT = "default"
_MANY_CHARS, _MANY_TOKENS = 10_000, 1_000  # they would hold up the streams of others
_N_TAIL = 16  # tokens at a prompt's end in which a template may open the reasoning


def _with_adapter(name: str, adapter: str | None) -> str:
    return name if adapter is None else f"{name}:{adapter}"


class Served:
    """One model under one name, or with one of its adapters under the name model:adapter."""

    def __init__(
        self,
        name: str,
        llm: AsyncLLM,
        *,
        parser: str | None = None,
        adapter: str | None = None,
    ) -> None:
        self.name = _with_adapter(name, adapter)
        # What the server was told to load is a name, too: many clients are told the same.
        self.alias = _with_adapter(llm.llm.source or name, adapter)
        self.llm, self.adapter = llm, adapter
        self.parent = None if adapter is None else name
        self.created = int(time.time())
        self.tokenizer: Tokenizer = llm.llm.tokenizer
        self.max_model_len: int = llm.llm.max_seq_len
        self.vocab_size: int = llm.llm.vocab_size
        self.parser = parser_name(self.tokenizer.chat_template, parser)

    async def encode_chat(
        self,
        turns: Sequence[Mapping[str, Any]],
        template: Mapping[str, Any],
        param: str = "messages",
    ) -> list[int]:
        """The prompt of a conversation.  Rendered in a thread: a template may take seconds.
        param: the field that has the conversation."""
        if taken := {"self", "messages"} & template.keys():
            raise HttpError(
                400,
                f"a template variable cannot be called {min(taken)}",
                param="chat_template_kwargs",
            )
        try:
            return await asyncio.to_thread(self.tokenizer.encode_chat, turns, **template)
        except TemplateError as error:
            raise HttpError(400, str(error), param=param, code="template_error") from error
        except RequestError as error:
            blamed = _blamed(str(error), param)
            raise HttpError(400, str(error), param=blamed, code="invalid_value") from error

    async def encode(self, text: str, **options: Any) -> list[int]:
        """The token ids of a text; a long one is encoded in a thread."""
        return (await self.encode_all([text], **options))[0]

    async def encode_all(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        """The token ids of each text; many characters in all are encoded in a thread."""

        def work() -> list[list[int]]:
            return [self.tokenizer.encode(text, **options) for text in texts]

        n_chars = sum(map(len, texts))
        if n_chars < _MANY_CHARS and not self.tokenizer.uses_process:
            return work()
        return await asyncio.to_thread(work)

    async def encode_prompts(
        self, prompts: Sequence[str | list[int]], **options: Any
    ) -> list[list[int]]:
        """The token ids of prompts, of which some may be ids."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(await self.encode_all(texts, **options))
        return [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, with control tokens; many are decoded in a thread."""
        return await _aside(len(ids), lambda: self._spell(ids))

    async def decode_each(self, ids: Sequence[int]) -> list[str]:
        """The text of each token id by itself; many are decoded in a thread."""
        return await _aside(len(ids), lambda: [self._spell([i]) for i in ids])

    def _spell(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """HttpError 400 for a token id that the model does not have."""
        if max(ids) >= self.vocab_size:
            raise HttpError(
                400,
                f"token id {max(ids)} is outside the vocabulary of {self.vocab_size}",
                param=param,
            )

    def check_prompt(self, ids: Sequence[int], param: str) -> None:
        """HttpError 400 for a prompt that the model cannot read."""
        self.check_ids(ids, param)
        if len(ids) > self.max_model_len:
            raise overflow(len(ids), 0, self.max_model_len, param)

    def max_tokens(self, asked: int | None, n_prompt: int, param: str) -> int:
        """How many tokens may come; HttpError 400 where the context has no room for what is asked
        for: nothing is cut off silently."""
        room = self.max_model_len - n_prompt
        if room < (1 if asked is None else asked):
            raise overflow(n_prompt, 1 if asked is None else asked, self.max_model_len, param)
        return room if asked is None else asked

    def answer_parser(
        self, prompt_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> AnswerParser:
        """A fresh parser for one answer to this prompt."""
        return parser_for(self.parser, tools=tools, prompt=self._tail(prompt_ids))

    def after_reasoning(
        self, structured: dict[str, Any] | None, prompt_ids: Sequence[int]
    ) -> dict[str, Any] | None:
        """The same for an answer that may begin with reasoning, which is left free."""
        tail, template = self._tail(prompt_ids), self.tokenizer.chat_template
        marks = reasoning_marks(self.parser, template, tail)
        return structured if structured is None or marks is None else structured | {"after": marks}

    def open_reasoning(self, prompt_ids: Sequence[int]) -> str | None:
        """The mark that ends the reasoning which this prompt opens; None if it opens none."""
        tail = self._tail(prompt_ids)
        marks = reasoning_marks(self.parser, self.tokenizer.chat_template, tail)
        return marks[0].strip() if marks is not None and len(marks) == 1 else None

    def _tail(self, prompt_ids: Sequence[int]) -> str:
        return self._spell(prompt_ids[-_N_TAIL:])


def _blamed(message: str, param: str) -> str:
    """The field to blame for what a template is not given: the error begins with its variable."""
    name = message.removeprefix("a key of ").partition(" ")[0].partition("[")[0]
    if name == "messages":
        return param
    return name if name in ("tools", "documents") else "chat_template_kwargs"


async def _aside(n_tokens: int, work: Callable[[], T]) -> T:
    """The result of `work` on so many tokens, in a thread where these are many."""
    return work() if n_tokens < _MANY_TOKENS else await asyncio.to_thread(work)


class ServedModels:
    """The models by name; case does not count, and "default" is the first.  What a model was loaded
    from is its name as well, unless another model is called so."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = list(served)
        self._by_name: dict[str, Served] = {}
        for each in served:
            if self._by_name.setdefault(each.name.lower(), each) is not each:
                raise RequestError(
                    f"two models are called {each.name!r}; give each its own name, whose case "
                    "does not count"
                )
        shared = Counter(each.alias.lower() for each in served)
        for each in served:
            if shared[each.alias.lower()] == 1:  # of two, neither: a client would get the other
                self._by_name.setdefault(each.alias.lower(), each)

    def find(self, name: str | None) -> Served:
        """HttpError 404 for a name that no model has."""
        if not name or name.lower() == DEFAULT:
            return self.all[0]
        found = self._by_name.get(name.lower())
        if found is None:
            known = ", ".join(each.name for each in self.all)
            raise HttpError(
                404,
                f"the model {name!r:.80} does not exist; this server has: {known}",
                param="model",
                code="model_not_found",
            )
        return found
