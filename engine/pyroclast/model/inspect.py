"""What happens inside a step: layer states, attention probabilities, logits after each layer.

`inspect_step` runs the recorded step in pieces and reads its arrays between the calls, so it
shows what the kernels computed and costs nothing when it is not asked.  It is exact, not fast:
probabilities are computed in NumPy, one query after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroclast.errors import ContextOverflowError, KernelError, RequestError
from pyroclast.model.model import Model
from pyroclast.model.step_reader import Floats, LayerInspection, StepReader
from pyroclast_kernels.batch import Batch

_SLOT = 0  # where recurrent layers keep the sequence's state


@dataclass(frozen=True)
class Inspection:
    """One sequence: the positions that were asked for, the state before the first layer (n_rows,
    d_model), and the layers that were asked for by number."""

    positions: tuple[int, ...]
    embedding: Floats
    layers: dict[int, LayerInspection]


class Inspector:
    """An inspection of token_ids as one sequence, a chunk at a time, in the order of positions.

    layers and positions choose what is kept; None keeps all.  attention=False leaves out the
    probabilities, logits=True adds the logits after each layer.  adapter is the slot of
    model.adapters that the sequence uses.

    Raises KernelError on a GPU, RequestError and ContextOverflowError for what cannot be run,
    MemoryBudgetError where the result would exceed MAX_BYTES.
    """

    def __init__(
        self,
        model: Model,
        token_ids: Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        attention: bool = True,
        logits: bool = False,
        adapter: int | None = None,
    ) -> None:
        program = model.program()
        check_device(model)
        _check_tokens(model, token_ids)
        n_tokens = len(token_ids)
        self._model, self._token_ids, self._adapter = model, list(token_ids), adapter
        self._positions = _chosen("positions", positions, n_tokens)
        layers = _chosen("layers", layers, model.config.n_layers)
        self._reader = StepReader(
            model, program.calls, n_tokens, layers, self._positions, attention, logits
        )
        self._states: list[Any] = []  # of recurrent layers, after the tokens that were read

    def read(self, first: int, n_tokens: int, table: Sequence[int]) -> None:
        """The tokens [first, first + n_tokens), at most max_batch_tokens.  `table` are the cache
        blocks of the sequence, which hold all tokens before `first`.  They and model.logits are
        overwritten, model.batch is left as it was, and no step may run meanwhile.  NumericalError
        where a state is not finite."""
        with borrowed_batch(self._model) as batch:
            fill(batch, self._token_ids[first : first + n_tokens], first, table)
            self._model.adapters.assign([self._adapter])
            states = self._model.slot_arrays(_SLOT)
            for array, kept in zip(states, self._states, strict=bool(first)):
                array[:] = kept
            self._reader.read(first, n_tokens)
            self._states = [array.copy() for array in states]

    @property
    def found(self) -> Inspection:
        """What was read; whole after the last chunk."""
        return Inspection(self._positions, self._reader.embedding, self._reader.layers)


def inspect_step(
    model: Model,
    token_ids: Sequence[int],
    *,
    blocks: Sequence[int] | None = None,
    **options: Any,
) -> Inspection:
    """Runs token_ids as one sequence, in chunks of max_batch_tokens, and says what happened inside.

    options: those of Inspector.  `blocks` are cache blocks that nobody owns; None takes the first
    ones, so the model must be idle.
    """
    inspector = Inspector(model, token_ids, **options)
    n_tokens = len(token_ids)
    table = _table(model, blocks, n_tokens)
    for first in range(0, n_tokens, model.max_batch_tokens):
        inspector.read(first, min(model.max_batch_tokens, n_tokens - first), table)
    return inspector.found


def head_logits(model: Model, states: Floats) -> Floats:
    """float32 (n, vocab_size): what the final norm and the output head make of states (n, d_model),
    each a residual stream.  At most max_batch_tokens and max_logits of them.  model.logits is
    overwritten, model.batch is left as it was, and no step may run meanwhile."""
    program, n = model.program(), len(states)
    check_device(model)
    x = next(call.arguments["out"] for call in program.calls if call.kernel.op == "embed")
    with borrowed_batch(model) as batch:
        x[:n] = states
        batch.logit_rows[:n] = range(n)
        batch.counts[:] = n, 1, n
        program.run_some([i for i, call in enumerate(program.calls) if call.label == "output"])
        return model.logits[:n].copy()


# ---- the batch ---------------------------------------------------------------------------------


@contextmanager
def borrowed_batch(model: Model) -> Iterator[Batch]:
    """Puts back what the batch held, and the slot of recurrent layers: the engine rewrites only
    what changes between its steps."""
    batch = model.batch
    names = ("counts", "token_ids", "positions", "seq_index", "seq_starts", "logit_rows")
    arrays = [getattr(batch, name) for name in (*names, "slots_in", "slots_out")]
    arrays += model.slot_arrays(_SLOT)
    arrays += [batch.block_tables[0], *model.adapters.assigned]
    saved = [array.copy() for array in arrays]
    try:
        yield batch
    finally:
        for array, before in zip(arrays, saved, strict=True):
            array[:] = before


def fill(batch: Batch, token_ids: Sequence[int], first: int, table: Sequence[int]) -> None:
    """Fills the batch with one sequence's tokens from position `first` on, without logits."""
    n = len(token_ids)
    batch.token_ids[:n] = token_ids
    batch.positions[:n] = range(first, first + n)
    batch.seq_index[:n] = 0
    batch.seq_starts[:2] = 0, n
    batch.block_tables[0, : len(table)] = table
    batch.counts[:] = n, 1, 0
    batch.keep_states([_SLOT])


# ---- checks ------------------------------------------------------------------------------------


def check_device(model: Model) -> None:
    """KernelError on a GPU, where nobody can look between the calls."""
    if model.memory.on_gpu:
        raise KernelError(
            'a step can be inspected on the CPU only, and this model runs on "cuda"; load it with '
            'device="cpu"'
        )


def _check_tokens(model: Model, token_ids: Sequence[int]) -> None:
    vocab_size = model.config.vocab_size
    if not len(token_ids):
        raise RequestError("token_ids must hold at least one token, got none")
    if len(token_ids) > model.max_seq_len:
        raise ContextOverflowError(
            f"at most {model.max_seq_len} tokens fit the model's context, got {len(token_ids)}; "
            "inspect a shorter text"
        )
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise RequestError(f"token ids must be in 0..{vocab_size - 1}, got {token_id}")


def _chosen(what: str, given: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """The chosen numbers out of 0..n-1 in rising order, each once."""
    chosen = tuple(range(n)) if given is None else tuple(sorted(set(given)))
    for number in chosen:
        if not 0 <= number < n:
            raise RequestError(f"{what} must be in 0..{n - 1}, got {number}")
    return chosen


def _table(model: Model, blocks: Sequence[int] | None, n_tokens: int) -> Sequence[int]:
    """The sequence's cache blocks: as many as it needs."""
    n_needed = -(-n_tokens // model.block_size)
    table = list(range(n_needed)) if blocks is None else list(blocks)[:n_needed]
    if len(set(table)) < n_needed:
        raise RequestError(
            f"{n_tokens} tokens need {n_needed} different cache blocks of {model.block_size} "
            f"positions, got {len(set(table))}"
        )
    for block in table:
        if not 0 <= block < model.n_blocks:
            raise RequestError(f"cache blocks must be in 0..{model.n_blocks - 1}, got {block}")
    return table
