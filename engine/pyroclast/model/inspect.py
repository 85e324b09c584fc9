"""What happens inside a step: layer states, attention probabilities, logits after each layer.

`inspect_step` runs the recorded step call by call and reads its arrays between the calls, so it
shows what the kernels computed and costs nothing when it is not asked.  It is exact, not fast:
probabilities are computed in NumPy, one query after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyroclast.errors import ContextOverflowError, KernelError, RequestError
from pyroclast.model.model import Model
from pyroclast.model.step_reader import Floats, LayerInspection, StepReader
from pyroclast_kernels.batch import Batch


@dataclass(frozen=True)
class Inspection:
    """One sequence: the positions that were asked for, the state before the first layer (n_rows,
    d_model), and the layers that were asked for by number."""

    positions: tuple[int, ...]
    embedding: Floats
    layers: dict[int, LayerInspection]


def inspect_step(
    model: Model,
    token_ids: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    attention: bool = True,
    logits: bool = False,
    blocks: Sequence[int] | None = None,
    adapter: int | None = None,
) -> Inspection:
    """Runs token_ids as one sequence, in chunks of max_batch_tokens, and says what happened inside.

    layers and positions choose what is kept; None keeps all.  attention=False leaves out the
    probabilities, logits=True adds the logits after each layer.  `blocks` are cache blocks that
    nobody owns; None takes the first ones, so the model must be idle.  They and model.logits are
    overwritten, model.batch is left as it was, and no step may run meanwhile.  adapter is the slot
    of model.adapters that the sequence uses.

    Raises KernelError on a GPU, RequestError and ContextOverflowError for what cannot be run,
    MemoryBudgetError where the result would exceed MAX_BYTES.
    """
    program = model.program()
    _check_device(model)
    _check_tokens(model, token_ids)
    n_layers, n_tokens = model.config.n_layers, len(token_ids)
    layers = _chosen("layers", layers, n_layers)
    positions = _chosen("positions", positions, n_tokens)
    table = _table(model, blocks, n_tokens)
    reader = StepReader(model, program.calls, n_tokens, layers, positions, attention, logits)
    with _borrowed(model) as batch:
        for first in range(0, n_tokens, model.max_batch_tokens):
            chunk = token_ids[first : first + model.max_batch_tokens]
            _fill(batch, chunk, first, table)
            model.adapters.assign([adapter])
            reader.read(first, len(chunk))
    return Inspection(positions, reader.embedding, reader.layers)


# ---- the batch ---------------------------------------------------------------------------------


@contextmanager
def _borrowed(model: Model) -> Iterator[Batch]:
    """Puts back what the batch held: the engine rewrites only what changes between its steps."""
    batch = model.batch
    names = ("counts", "token_ids", "positions", "seq_index", "seq_starts", "logit_rows")
    arrays = [getattr(batch, name) for name in names]
    arrays += [batch.block_tables[0], *model.adapters.assigned]
    saved = [array.copy() for array in arrays]
    try:
        yield batch
    finally:
        for array, before in zip(arrays, saved, strict=True):
            array[:] = before


def _fill(batch: Batch, token_ids: Sequence[int], first: int, table: Sequence[int]) -> None:
    """One sequence's tokens from position `first` on, without logits."""
    n = len(token_ids)
    batch.token_ids[:n] = token_ids
    batch.positions[:n] = range(first, first + n)
    batch.seq_index[:n] = 0
    batch.seq_starts[:2] = 0, n
    batch.block_tables[0, : len(table)] = table
    batch.counts[:] = n, 1, 0


# ---- checks ------------------------------------------------------------------------------------


def _check_device(model: Model) -> None:
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
