"""Times a model's steps in this process: prompts and decoding, at any depth and batch size.

Workloads have llama-bench's names (pp512, tg128, "pp512 @ d4096").  As in llama-bench, tokenization
and sampling are not timed.  Token ids vary from position to position.
`pyroclast.lab.speed.throughput_rows` makes rows of the times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.errors import ContextOverflowError, NumericalError, RequestError
from pyroclast.families.tensors import is_matrix
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.model import load_model
from pyroclast.progress import progress_bar

MAX_BATCH_TOKENS = 512  # prompts are read in steps of this many tokens

# (sequence, first position, end): what one sequence contributes to a step.
Span = tuple[int, int, int]


@dataclass(frozen=True)
class Workload:
    """What is timed: n_batch sequences, which hold n_depth tokens each, either read n_prompt more
    tokens or decode n_gen more, one at a time."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_batch: int = 1

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            least = 1 if name == "n_batch" else 0
            if not isinstance(number, int) or number < least:
                raise RequestError(f"{name} must be a whole number >= {least}, got {number!r}")
        if (self.n_prompt == 0) == (self.n_gen == 0):
            raise RequestError(
                "a workload times a prompt or decoding: one of n_prompt and n_gen is 0, got "
                f"{self.n_prompt} and {self.n_gen}"
            )

    @property
    def name(self) -> str:
        """As in llama-bench; a batch size above 1, which llama-bench does not have, is added."""
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        name += f" b{self.n_batch}" if self.n_batch > 1 else ""
        return name + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_end(self) -> int:
        """Positions of each sequence at the end."""
        return self.n_depth + self.n_prompt + self.n_gen

    @property
    def n_timed(self) -> int:
        """Tokens of the timed part, over all sequences."""
        return self.n_batch * (self.n_prompt + self.n_gen)


def make_workloads(
    n_prompts: Sequence[int], n_gens: Sequence[int], n_depths: Sequence[int], n_batch: Sequence[int]
) -> list[Workload]:
    """Every prompt length and number of tokens to decode, at every depth and batch size.  A length
    of 0 is skipped; RequestError if nothing is left."""
    lengths = [(n, 0) for n in n_prompts if n] + [(0, n) for n in n_gens if n]
    found = [
        Workload(n_prompt, n_gen, depth, batch)
        for depth, batch, (n_prompt, n_gen) in product(n_depths, n_batch, lengths)
    ]
    if not found:
        raise RequestError("nothing to measure: give a prompt length or a number of tokens above 0")
    return found


def plan_steps(n_seqs: int, begin: int, end: int, max_batch_tokens: int) -> Iterator[list[Span]]:
    """Positions [begin, end) of sequences 0..n_seqs - 1 in full steps, one sequence after another;
    the last step may hold fewer tokens."""
    step: list[Span] = []
    room = max_batch_tokens
    for seq in range(n_seqs):
        first = begin
        while first < end:
            stop = min(end, first + room)
            step.append((seq, first, stop))
            first, room = stop, room - (stop - first)
            if room == 0:
                yield step
                step, room = [], max_batch_tokens
    if step:
        yield step


class Runner:
    """A loaded model with cache room for the largest of the workloads; use as a context manager.

    ContextOverflowError if the model's context is too short for one of them."""

    def __init__(
        self,
        model: str | Path,
        workloads: Sequence[Workload],
        *,
        kernels: str | None = None,
        threads: int | None = None,
        compute: str = "auto",
        kv_dtype: str = "auto",
    ) -> None:
        n_seqs = max(workload.n_batch for workload in workloads)
        longest = max(workloads, key=lambda workload: workload.n_end)
        self._blocks_per_seq = -(-longest.n_end // BLOCK_SIZE)
        with open_checkpoint(model) as checkpoint:
            if longest.n_end > checkpoint.config.max_seq_len:
                raise ContextOverflowError(
                    f"{longest.name} needs {longest.n_end} positions, the context of "
                    f"{checkpoint.name} holds {checkpoint.config.max_seq_len}"
                )
            self.name = checkpoint.name
            self.format = "f32" if compute == "float32" else main_format(checkpoint)
            with progress_bar(checkpoint.config.n_layers, "layer") as show:
                self.model = load_model(
                    checkpoint,
                    kernels=kernels,
                    threads=threads,
                    compute=compute,
                    kv_dtype=kv_dtype,
                    max_batch_tokens=max(MAX_BATCH_TOKENS, n_seqs),
                    max_seqs=n_seqs,
                    max_logits=n_seqs,
                    n_blocks=max(workload.n_batch * self._blocks_per_seq for workload in workloads),
                    on_layer=show,
                )
        # Sequence -> positions whose keys and values are in the cache.  What a token is depends on
        # its sequence and position alone, so a depth that is there need not be read again.
        self._filled = [0] * n_seqs

    def run(self, workload: Workload) -> float:
        """Seconds of one repetition.  NumericalError if the logits are not numbers."""
        self._fill(workload)
        begin, n = workload.n_depth, workload.n_batch
        start = time.perf_counter()
        if workload.n_prompt:
            self._prefill(n, begin, workload.n_end)
            seconds = time.perf_counter() - start
        else:
            seconds = self._decode(n, begin, workload.n_end)
        model = self.model
        if not np.isfinite(model.logits[: model.batch.n_logits]).all():
            raise NumericalError(f"{self.name}: NaN or infinity in the logits of {workload.name}")
        for seq in range(n):
            self._filled[seq] = max(self._filled[seq], workload.n_end)
        return seconds

    def close(self) -> None:
        """Frees the model."""
        self.model.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, workload: Workload) -> None:
        """Brings every sequence to the workload's depth.  The state of a recurrent layer is that of
        the last token, so nothing of it can be kept."""
        filled = 0 if self.model.n_slots else min(self._filled[: workload.n_batch])
        if filled < workload.n_depth:
            self._prefill(workload.n_batch, filled, workload.n_depth)

    def _prefill(self, n_seqs: int, begin: int, end: int) -> None:
        for spans in plan_steps(n_seqs, begin, end, self.model.max_batch_tokens):
            self._put(spans, end)
            self.model.forward()

    def _decode(self, n_seqs: int, begin: int, end: int) -> float:
        ids = np.stack([self._token_ids(seq, begin, end) for seq in range(n_seqs)], axis=1)
        batch = self.model.batch
        start = time.perf_counter()
        self._put([(seq, begin, begin + 1) for seq in range(n_seqs)], begin + 1)
        self.model.forward()
        for position in range(begin + 1, end):
            batch.token_ids[:n_seqs] = ids[position - begin]
            batch.positions[:n_seqs] = position
            if position == begin + 1:  # the first step may have begun without states
                batch.keep_states(range(n_seqs))
            self.model.forward()
        return time.perf_counter() - start

    def _put(self, spans: Sequence[Span], end: int) -> None:
        """Writes a step into the batch, with logits for tokens that stand right before `end`."""
        batch, n_tokens, n_logits = self.model.batch, 0, 0
        for row, (seq, first, stop) in enumerate(spans):
            here = slice(n_tokens, n_tokens + stop - first)
            n_tokens = here.stop
            batch.token_ids[here] = self._token_ids(seq, first, stop)
            batch.positions[here] = np.arange(first, stop)
            batch.seq_index[here] = row
            batch.seq_starts[row : row + 2] = here.start, here.stop
            blocks = seq * self._blocks_per_seq + np.arange(self._blocks_per_seq)
            batch.block_tables[row, : self._blocks_per_seq] = blocks
            if stop == end:
                batch.logit_rows[n_logits] = n_tokens - 1
                n_logits += 1
        batch.counts[:] = n_tokens, len(spans), n_logits
        batch.keep_states([seq for seq, _, _ in spans])

    def _token_ids(self, seq: int, first: int, stop: int) -> NDArray[np.int64]:
        """Ids all over the vocabulary, so that embeddings come from memory as they do in text."""
        positions = np.arange(first, stop, dtype=np.int64)
        return (positions * 7919 + seq * 104_729 + 1) % self.model.config.vocab_size


def main_format(checkpoint: Checkpoint) -> str:
    """The format of most of the weights that every token is multiplied by."""
    counts: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        if is_matrix(tensor.name) and tensor.name != "token_embd":
            counts[tensor.format] = counts.get(tensor.format, 0) + math.prod(tensor.shape)
    return max(counts, key=lambda each: counts[each])
