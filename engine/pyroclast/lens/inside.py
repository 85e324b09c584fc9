"""The inside of a loaded model, for views that read more than logits.  Everything here is done in
small pieces between the steps of the engine, while other requests go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pyroclast.engine.inspection import PIECE_TOKENS, between_steps, inspect
from pyroclast.errors import RequestError
from pyroclast.lens.choice import Floats
from pyroclast.model.inspect import Inspection, head_logits
from pyroclast.model.model import Model

if TYPE_CHECKING:
    from pyroclast.llm import LLM

T = TypeVar("T")


def model_of(llm: LLM) -> Model:
    """The model with its weights, which not every LLM that is made of parts has."""
    if not isinstance(llm.model, Model):
        raise RequestError(
            f"this view needs a model that was loaded from a file, got {llm.name!r}, "
            "which was made of parts"
        )
    return llm.model


def attention_of(model: Model) -> dict[int, dict[str, Any]]:
    """Layer -> the arguments of its op `attention`, where it has one."""
    calls = [call for call in model.program().calls if call.kernel.op == "attention"]
    return {int(call.label.removeprefix("layer ")): call.arguments for call in calls}


def inspected(
    llm: LLM, token_ids: Sequence[int], *, adapter: str | None = None, **options: Any
) -> Inspection:
    """What happens inside the model on token_ids; options: those of model.inspect.Inspector."""
    model_of(llm)
    slot = llm._call(adapter).adapter.slot  # noqa: SLF001 - the lens is a face of the LLM
    return inspect(llm._loop, token_ids, adapter=slot, **options)  # noqa: SLF001


def between(llm: LLM, work: Callable[[], T]) -> T:
    """The result of `work`, which runs between two steps."""
    return between_steps(llm._loop, work)  # noqa: SLF001


def heads(llm: LLM, states: Floats) -> Floats:
    """float32 (n, vocab_size): what the final norm and the output head make of states (n,
    d_model)."""
    model = model_of(llm)
    size = min(PIECE_TOKENS, model.max_batch_tokens, model.max_logits)
    rows = [
        between(llm, lambda part=states[i : i + size]: head_logits(model, part))  # type: ignore[misc]
        for i in range(0, len(states), size)
    ]
    return np.concatenate(rows)
