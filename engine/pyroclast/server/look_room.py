"""What the endpoints of the page `look` have in common: bodies, and work on a model in a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct, field

from pyroclast.lens.text import Context
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.server.errors import HttpError
from pyroclast.server.look_variants import Variants
from pyroclast.server.look_work import Views
from pyroclast.server.messages_in import ChatMessage, for_template
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange

T = TypeVar("T")

MAX_CHARS = 200_000
TokenId = Annotated[int, Meta(ge=0)]


class LookReply(Struct):
    """What the page reads; pyroclast.lens documents the fields."""


class ModelBody(Struct, kw_only=True):
    """The body of a question about a model."""

    model: str | None = None


class ContextBody(ModelBody, kw_only=True):
    """The body of a question about a context: exactly one of text, messages and token_ids."""

    text: Annotated[str, Meta(max_length=MAX_CHARS)] | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    token_ids: list[TokenId] | None = None

    def context(self) -> Context:
        """What the model reads; HttpError 400 unless there is one."""
        given = [each for each in (self.text, self.messages, self.token_ids) if each is not None]
        if len(given) != 1:
            raise HttpError(400, "give exactly one of text, messages and token_ids", param="text")
        return for_template(self.messages) if self.messages is not None else given[0]  # type: ignore[return-value]


class SamplingBody(ContextBody, kw_only=True):
    """The body of a question about sampling: the fields of SamplingParams."""

    params: dict[str, Any] = field(default_factory=dict)


class Room:
    """Runs views of the models of one server.  training: the folder of training runs, if any."""

    def __init__(self, training: Path | None = None) -> None:
        self.training = training
        self._views = Views()
        self.variants = Variants()

    async def view(
        self, exchange: Exchange, body: ModelBody, work: Callable[[LLM, str | None], T]
    ) -> T:
        """The result of `work` on the model that the body names, and its adapter."""
        served: Served = exchange.served(body.model)
        llm, adapter = served.llm.llm, served.adapter
        found: T = await exchange.unless_gone(self._views.run(lambda: work(llm, adapter)))
        return found


def params_of(given: dict[str, Any]) -> SamplingParams:
    """The parameters; SamplingError for what is none.  A seed that is not given is made so small
    that a page can hold it exactly."""
    params = SamplingParams.from_dict(given)
    return params.replace(seed=params.fixed_seed() % 2**32) if params.seed is None else params
