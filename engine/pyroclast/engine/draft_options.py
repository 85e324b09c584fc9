"""What a caller asks of speculation, checked before a model is loaded; and what drafts: a draft
model, or the model's own head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.draft_costs import step_costs
from pyroclast.engine.draft_model import DraftModel
from pyroclast.engine.draft_speculator import DraftSpeculator
from pyroclast.engine.head_drafts import HeadDrafts
from pyroclast.engine.request import Request
from pyroclast.engine.speculate import Drafting, Speculator, check_speculation, speculator
from pyroclast.errors import RequestError, UnsupportedModelError
from pyroclast.model.device import check_device, kernel_errors, why_not_chosen
from pyroclast.model.draft_head import check_has_head
from pyroclast.model.host_memory import available_bytes
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes
from pyroclast.model.load import AdapterPaths, Loaded, load
from pyroclast.model.load_plan import Plan, plan
from pyroclast.model.model import Model
from pyroclast.model.options import LoadOptions

if TYPE_CHECKING:
    from pyroclast.engine.step_model import StepModel

# The cache of a draft model has room for so many full contexts, within a part of the memory.
_CONTEXTS, _MEMORY_PART = 8, 1 / 16


class TextThenModel:
    """Drafts from the text itself where it repeats, which cost nothing; else the draft model's."""

    def __init__(self, text: Speculator, model: DraftSpeculator) -> None:
        self._text, self._model = text, model

    def drafts(self, requests: Iterable[Request]) -> list[tuple[Any, list[int]]]:
        """See `speculate.Drafting`, here and below."""
        requests = list(requests)
        if found := self._text.drafts(requests):
            self._model.pass_over()
            return found
        return self._model.drafts(requests)

    def keep(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        self._text.keep(requests)
        self._model.keep(requests)

    def drop(self, requests: Iterable[Request]) -> None:
        self._model.drop(requests)

    def forget(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        self._text.forget(requests)
        self._model.forget(requests)

    def close(self) -> None:
        self._model.close()


@dataclass
class DraftOptions:
    """speculation: one of SPECULATIONS.  draft: a second model, as LLM takes them.  model: the
    draft model, once it is loaded."""

    speculation: str = "auto"
    draft: str | Path | None = None
    model: StepModel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """RequestError for what cannot be."""
        check_speculation(self.speculation)
        if self.speculation == "draft" and self.draft is None and self.model is None:
            raise RequestError(
                'speculation="draft" needs a second model, LLM(..., draft=MODEL), smaller than the '
                "first one and with the same vocabulary"
            )
        if self.draft is not None and self.speculation not in ("auto", "draft"):
            raise RequestError(
                f'a draft model needs speculation "auto" or "draft", got {self.speculation!r}; '
                "leave one of them out"
            )

    def load(
        self, model: str | Path, device: str, adapters: AdapterPaths, **options: Any
    ) -> Loaded:
        """Loads a model, and its head or the draft model beside it; the memory of both is counted
        before.  TokenizerError if their vocabularies differ, RequestError if it has no head."""
        if self.speculation == "mtp":
            _check_cpu('speculation="mtp"', device, options)
            return load(model, "cpu", adapters, draft_head=True, **options)
        if self.draft is None:
            return load(model, device, adapters, **options)
        from pyroclast.text.same_vocabulary import check_same_vocabulary

        _check_cpu("a draft model", device, options)
        with open_checkpoint(self.draft) as checkpoint:
            planned = _plan(checkpoint, options)
            n_bytes = sum(planned.n_bytes.values())
            loaded = load(model, "cpu", adapters, draft_bytes=n_bytes, **options)
            try:
                tokenizer = checkpoint.tokenizer()
                check_same_vocabulary(loaded.tokenizer, loaded.name, tokenizer, checkpoint.name)
                with kernel_errors():
                    self.model = Model(checkpoint, planned, executor=loaded.model.executor)
            except BaseException:
                loaded.model.close()
                raise
        return loaded

    def make(self, model: StepModel, pool: BlockPool) -> Drafting | None:
        """What proposes drafts to a loaded model, whose cache blocks are those of pool; None where
        nothing does."""
        costs = step_costs(model.kernels)
        if self.speculation == "mtp":
            check_has_head(model.config, "the model")
            assert model.draft_head is not None, "the config has it"
            drafts = HeadDrafts(model.draft_head, pool, model.block_size)
            share = model.draft_head.weight_bytes / max(1, model.weight_bytes)
            return DraftSpeculator(drafts, share, costs)
        if self.model is None:
            return speculator(self.speculation, model.device, model.n_slots > 0, costs)
        share = self.model.weight_bytes / max(1, model.weight_bytes)
        vocab_size: int = model.logits.shape[1]
        second = DraftSpeculator(DraftModel(self.model, vocab_size), share, costs)
        if self.speculation == "draft":
            return second
        text = speculator(self.speculation, model.device, model.n_slots > 0, costs)
        return second if text is None else TextThenModel(text, second)


def _check_cpu(what: str, device: str, options: dict[str, Any]) -> None:
    """RequestError for a device that is, or would be, the GPU."""
    device = check_device(device)
    reason = "the GPU was asked for" if device == "cuda" else ""
    if device == "auto" and not why_not_chosen(options.get("threads")):
        reason = "there is a GPU, which would be chosen"
    if reason:
        raise RequestError(f'{what} needs the CPU, but {reason}; pass device="cpu"')


def _plan(checkpoint: Checkpoint, options: dict[str, Any]) -> Plan:
    """How a draft model lies in memory: beside a model with `options`, with a smaller cache."""
    config = checkpoint.config
    if any(spec.recurrent is not None for spec in config.layers):
        raise UnsupportedModelError(
            f"{checkpoint.path} cannot be a draft model: it has recurrent layers, whose states "
            "cannot go back to before a draft that was wrong; take one with attention only"
        )
    shared = ("kernels", "threads", "max_batch_tokens", "max_seqs", "n_blocks")
    given = LoadOptions(**{name: options[name] for name in shared if name in options})
    given.check()
    if given.n_blocks is None:
        each = block_bytes(config, "f32")  # the largest
        room = int(available_bytes() * _MEMORY_PART) // each
        wanted = _CONTEXTS * -(-config.max_seq_len // BLOCK_SIZE)
        given = replace(given, n_blocks=max(1, min(wanted, room)))
    return plan(checkpoint, "cpu", given)
