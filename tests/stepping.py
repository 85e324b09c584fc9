"""Drives a Model by hand: ragged steps of token ids, without scheduler or sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.model.model import Model, load_model

# (sequence id, first position, token ids): what one sequence contributes to a step.
Span = tuple[int, int, Sequence[int]]


def load(path: str | Path, **options: Any) -> Model:
    options = {"max_seqs": 8, "n_blocks": 128, "max_logits": 256, "max_batch_tokens": 256} | options
    with open_checkpoint(path) as checkpoint:
        return load_model(checkpoint, **options)


def step(model: Model, spans: Sequence[Span]) -> list[NDArray[np.float32]]:
    """Runs one step; the logits (n_tokens, vocab_size) of each span.  Sequence s owns every
    eighth cache block from s on, so that neighbours in a sequence lie apart in memory, and slot s
    of the state cache."""
    batch, start = model.batch, 0
    for row, (seq, first, token_ids) in enumerate(spans):
        end = start + len(token_ids)
        batch.token_ids[start:end] = token_ids
        batch.positions[start:end] = range(first, first + len(token_ids))
        batch.seq_index[start:end] = row
        batch.seq_starts[row : row + 2] = start, end
        n_table = min(batch.max_blocks, (model.n_blocks - seq) // 8)
        batch.block_tables[row, :n_table] = seq + 8 * np.arange(n_table)
        start = end
    batch.logit_rows[:start] = range(start)
    batch.counts[:] = start, len(spans), start
    batch.keep_states([seq for seq, _, _ in spans])
    model.forward()
    ends = np.cumsum([len(token_ids) for _, _, token_ids in spans])
    return [rows.copy() for rows in np.split(model.logits[:start], ends[:-1])]


def logits_of(model: Model, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits of a text alone, in one step."""
    return step(model, [(0, 0, token_ids)])[0]
