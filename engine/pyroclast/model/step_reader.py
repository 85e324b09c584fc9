"""Reads the arrays of a step between its calls: states, attention probabilities, logits.

The layers of a recorded step are told apart by the labels of its calls, and what a call does by its
op and its arguments, so nothing here knows which family the model is of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import MemoryBudgetError, NumericalError
from pyroclast.model.model import Model
from pyroclast_kernels.attention import cache
from pyroclast_kernels.attention.reference import probs, queries
from pyroclast_kernels.program import OpCall

Floats = NDArray[np.float32]

# What an inspection may hold.  Probabilities grow with the square of the length: 30 layers of 9
# heads and 576 columns reach this at 905 tokens.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class LayerInspection:
    """One layer.  Rows are those of Inspection.positions; d_model and vocab_size are the model's.

    state (n_rows, d_model) is the residual stream after the layer, between_parts (n_rows, d_model)
    that between its attention and its feed-forward part.  from_attention and from_feed_forward
    (n_rows, d_model) are what these parts of the layer changed in it, as differences of float32
    states; with residual streams beside it the former has what the layer predicts, the latter what
    it corrects, and in the last layer the mean of all streams.  probs (n_heads, n_rows, n_tokens):
    row q says how much the query takes of each position, 0 for those it does not see.  logits
    (n_rows, vocab_size) are what the final norm and the output head make of `state`.  probs and
    logits are empty (no rows) where they were not asked for.
    """

    state: Floats
    between_parts: Floats
    from_attention: Floats
    from_feed_forward: Floats
    probs: Floats
    logits: Floats


class StepReader:
    """Runs steps in pieces, from one thing that was asked for to the next, and collects these."""

    def __init__(
        self,
        model: Model,
        calls: list[OpCall],
        n_tokens: int,
        layers: tuple[int, ...],
        positions: tuple[int, ...],
        attention: bool,
        logits: bool,
    ) -> None:
        self._model, self._calls = model, calls
        numbered = groupby(range(len(calls)), lambda i: calls[i].label)
        self._sections = {label: list(indices) for label, indices in numbered}
        self._x: Floats = next(c.arguments["out"] for c in calls if c.kernel.op == "embed")
        self._positions = np.array(positions, np.int64)
        self._attention, self._logits = attention, logits
        n_rows, d_model = len(positions), self._x.shape[1]
        shapes = {i: self._shapes(i, n_rows, n_tokens) for i in layers}
        _check_bytes(sum(4 * math.prod(s) for shape in shapes.values() for s in shape.values()))
        self.embedding = np.zeros((n_rows, d_model), np.float32)
        self.layers = {
            i: LayerInspection(**{name: np.zeros(s, np.float32) for name, s in shape.items()})
            for i, shape in shapes.items()
        }

    def _shapes(self, layer: int, n_rows: int, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Of a LayerInspection's arrays."""
        calls = [self._calls[i] for i in self._sections[f"layer {layer}"]]
        n_heads = sum(c.arguments["n_heads"] for c in calls if c.kernel.op == "attention")
        states = dict.fromkeys(
            ("state", "between_parts", "from_attention", "from_feed_forward"),
            (n_rows, self._x.shape[1]),
        )
        return states | {
            "probs": (n_heads, n_rows if self._attention else 0, n_tokens),
            "logits": (n_rows if self._logits else 0, self._model.config.vocab_size),
        }

    def read(self, first: int, n_tokens: int) -> None:
        """One step, whose batch is filled: tokens [first, first + n_tokens) of the sequence."""
        inside = (self._positions >= first) & (self._positions < first + n_tokens)
        kept = np.flatnonzero(inside)  # rows of the result, and of the step
        rows = self._positions[kept] - first
        self._run(self._sections["embedding"])
        self.embedding[kept] = self._x[rows]
        for i in range(self._model.config.n_layers):
            section = self._sections[f"layer {i}"]
            if i in self.layers and len(kept):
                has_mixer = self._model.config.layers[i].mixer is not None
                self._read_layer(section, self.layers[i], kept, rows, has_mixer)
            else:
                self._run(section)
        if not np.isfinite(self._x[:n_tokens]).all():
            where = self._model.find_non_finite()
            raise NumericalError(f"the model's states are not finite, first in {where}")

    def _read_layer(
        self, section: list[int], found: LayerInspection, kept: Any, rows: Any, has_mixer: bool
    ) -> None:
        before = between = self._x[rows]
        end_of_attention = self._end_of_attention(section, has_mixer)
        due: list[int] = []
        for index in section:
            due.append(index)
            call = self._calls[index]
            shows_probs = self._attention and call.kernel.op == "attention"
            if not (shows_probs or index in (end_of_attention, section[-1])):
                continue
            self._run(due)
            due = []
            if shows_probs:
                found.probs[:, kept] = _probs(call.arguments, rows, found.probs.shape[2])
            if index == end_of_attention:
                between = self._x[rows]
        found.between_parts[kept] = between
        found.from_attention[kept] = between - before
        found.state[kept] = self._x[rows]
        found.from_feed_forward[kept] = self._x[rows] - between
        if self._logits:
            self._read_logits(found.logits, kept, rows)

    def _read_logits(self, found: Floats, kept: Any, rows: Any) -> None:
        """The calls of the output on the states as they are now."""
        batch, size = self._model.batch, self._model.max_logits
        for i in range(0, len(rows), size):
            chunk = rows[i : i + size]
            batch.logit_rows[: len(chunk)] = chunk
            batch.n_logits_at[0] = len(chunk)
            self._run(self._sections["output"])
            found[kept[i : i + size]] = self._model.logits[: len(chunk)]

    def _end_of_attention(self, section: list[int], has_mixer: bool) -> int:
        """The last of the layer's first neighbouring calls that write to x: a layer adds to x what
        its attention gives, and later what its feed-forward part gives.  -1 for one that has the
        latter alone."""
        if not has_mixer:
            return -1
        runs = groupby(section, lambda i: _writes(self._calls[i], self._x))
        return next(list(run)[-1] for writes, run in runs if writes)

    def _run(self, indices: list[int]) -> None:
        self._model.program().run_some(indices)


def _writes(call: OpCall, x: Floats) -> bool:
    out = call.arguments.get("x" if call.kernel.op == "residual" else "out")
    return isinstance(out, np.ndarray) and np.may_share_memory(out, x)


def _probs(arguments: dict[str, Any], rows: Any, n_tokens: int) -> Floats:
    """(n_heads, n_rows, n_tokens) of one call of attention that has just run: from the rotated
    queries in qkv and the keys in the cache."""
    names = ("n_heads", "n_kv_heads", "head_dim", "block_size", "window")
    n_heads, n_kv_heads, head_dim, block_size, window = (arguments[name] for name in names)
    k_cache, v_cache = arguments["k_cache"], arguments["v_cache"]
    ends = arguments["positions"][rows] + 1
    blocks = arguments["block_tables"][0, : -(-int(ends.max()) // block_size)]
    k, _ = cache.read(k_cache[blocks], v_cache[blocks], head_dim, block_size)
    q = queries(arguments["qkv"][rows], k_cache, n_heads, n_kv_heads, head_dim)
    scoring = arguments["scale"], arguments["softcap"], arguments["sinks"]
    found = np.zeros((n_heads, len(rows), n_tokens), np.float32)
    for i, end in enumerate(ends.tolist()):
        first = max(0, end - window) if window > 0 else 0
        weights = probs(q[i], k[:, :, first:end], *scoring)
        found[:, i, first:end] = weights.reshape(n_heads, -1)
    return found


def _check_bytes(n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise MemoryBudgetError(
            f"the inspection would hold {n_bytes >> 20} MiB, at most {MAX_BYTES >> 20} MiB are "
            "allowed; ask for fewer layers or positions, or leave out attention or logits"
        )
