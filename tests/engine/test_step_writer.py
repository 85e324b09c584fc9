"""The one writer of step arrays: what a ragged step and the step after it leave in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fake_model import ByteDecoder
from pyroclast import SamplingParams
from pyroclast.engine.call import Call
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.step_writer import StepWriter
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.batch import Batch

BLOCK_SIZE = 4


@pytest.fixture
def arrays() -> SampleArrays:
    return SampleArrays(vocab_size=260, max_seq_len=32, max_rows=16, max_seqs=5)


@pytest.fixture
def batch() -> Batch:
    return Batch(16, 5, 8, 16)


def generating(n_tokens: int, *, blocks: list[int], **params: Any) -> GenerateRequest:
    """A request with a prompt of two tokens, of which the last of `n_tokens` is to be computed."""
    request = GenerateRequest(
        [1, 2],
        Call(),
        params=SamplingParams(seed=7, **params),
        seed=7,
        decoder=ByteDecoder(),
        stop_ids={9: 9},
        max_tokens=20,
    )
    request.token_ids += range(3, n_tokens + 1)
    request.blocks = blocks
    request.n_computed = n_tokens - 1
    request.n_step_tokens = request.n_step_rows = 1
    return request


def with_drafts(request: GenerateRequest, draft_ids: list[int]) -> GenerateRequest:
    request.draft_ids = draft_ids
    request.n_step_drafts = len(draft_ids)
    request.n_step_tokens = request.n_step_rows = 1 + len(draft_ids)
    return request


def reading(token_ids: list[int], blocks: list[int]) -> ReadRequest:
    request = ReadRequest(token_ids, Call(), targets=[50, 51, 52], scored=[None] * 4, n_top=2)
    request.blocks, request.n_step_tokens, request.n_step_rows = blocks, 3, 2
    return request


def test_a_ragged_step_with_drafts(batch: Batch, arrays: SampleArrays) -> None:
    a = with_drafts(generating(5, blocks=[3, 1]), [40, 41])
    b = reading([30, 31, 32], [7])
    c = generating(2, blocks=[0])
    StepWriter(batch, arrays, BLOCK_SIZE).write([a, b, c], layout=1)
    assert batch.counts.tolist() == [7, 3, 6]
    assert batch.token_ids[:7].tolist() == [5, 40, 41, 30, 31, 32, 2]
    assert batch.positions[:7].tolist() == [4, 5, 6, 0, 1, 2, 1]
    assert batch.seq_index[:7].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert batch.seq_starts[:4].tolist() == [0, 3, 6, 7]
    assert batch.logit_rows[:6].tolist() == [0, 1, 2, 4, 5, 6]
    assert batch.block_tables[:3, :2].tolist() == [[3, 1], [7, 0], [0, 0]]
    rows = arrays.rows[:6]
    assert arrays.n_rows[0] == 6
    assert rows["target"].tolist() == [-1, -1, -1, 51, 52, -1]
    assert rows["position"][[0, 1, 2, 5]].tolist() == [5, 6, 7, 2]
    assert rows["seed"][[0, 1, 2, 5]].tolist() == [7] * 4


def counts(arrays: SampleArrays, row: int) -> dict[int, tuple[int, int]]:
    start, n = (int(arrays.rows[name][row]) for name in ("penalty_start", "n_penalties"))
    return {int(t): (int(p), int(o)) for t, p, o in arrays.penalties[start : start + n]}


def test_each_draft_counts_the_tokens_before_it(batch: Batch, arrays: SampleArrays) -> None:
    a = with_drafts(generating(3, blocks=[0, 1], frequency_penalty=1.0), [1, 40])
    b = with_drafts(generating(2, blocks=[2], frequency_penalty=1.0), [2])
    StepWriter(batch, arrays, BLOCK_SIZE).write([a, b], layout=1)
    first = {1: (1, 0), 2: (1, 0), 3: (0, 1)}
    assert counts(arrays, 0) == first
    assert counts(arrays, 1) == {**first, 1: (1, 1)}
    assert counts(arrays, 2) == {**first, 1: (1, 1), 40: (0, 1)}
    assert counts(arrays, 3) == {1: (1, 0), 2: (1, 0)}
    assert counts(arrays, 4) == {1: (1, 0), 2: (1, 1)}


def test_each_draft_has_the_mask_of_its_position(batch: Batch, arrays: SampleArrays) -> None:
    """min_tokens=3 with a prompt of 2: from position 5 on token 9 may end the text."""
    a = with_drafts(generating(4, blocks=[0, 1], min_tokens=3), [40, 41])
    StepWriter(batch, arrays, BLOCK_SIZE).write([a], layout=1)
    starts = arrays.rows["allowed_start"][:3].tolist()
    assert starts == [0, -1, -1]
    word = int(arrays.allowed[0])
    assert word >> 9 & 1 == 0 and word >> 8 & 1 == 1


def test_the_next_step_changes_what_must_and_nothing_else(
    batch: Batch, arrays: SampleArrays
) -> None:
    writer = StepWriter(batch, arrays, BLOCK_SIZE)
    step = [
        generating(3, blocks=[5], frequency_penalty=1.0),
        generating(2, blocks=[6], min_tokens=1),
    ]
    writer.write(step, layout=1)
    assert arrays.rows["allowed_start"][1] >= 0
    for request in step:
        request.token_ids.append(3)
        request.n_computed += 1
    assert writer.write_next(step)
    assert batch.token_ids[:2].tolist() == [3, 3]
    assert batch.positions[:2].tolist() == [3, 2]
    assert arrays.rows["position"][:2].tolist() == [4, 3]
    assert counts(arrays, 0) == {1: (1, 0), 2: (1, 0), 3: (0, 2)}
    assert arrays.rows["allowed_start"][1] == -1
    for request in step:
        request.token_ids.append(3)
        request.n_computed += 1
    assert not writer.write_next(step)  # the first opens a block and has none
    assert counts(arrays, 0)[3] == (0, 2)
    step[0].blocks += [8]
    writer.write(step, layout=1)
    assert batch.block_tables[0, :2].tolist() == [5, 8]
    assert counts(arrays, 0)[3] == (0, 3)
    assert batch.positions[:2].tolist() == [4, 3]


def test_blocks_that_were_lost_are_written_again(batch: Batch, arrays: SampleArrays) -> None:
    writer = StepWriter(batch, arrays, BLOCK_SIZE)
    request = generating(7, blocks=[5, 6])
    writer.write([request], layout=1)
    request.blocks = [2, 6]
    writer.write([request], layout=2)
    assert batch.block_tables[0, :2].tolist() == [2, 6]
    batch.block_tables[:] = -1
    writer.forget()
    writer.write([request], layout=2)
    np.testing.assert_array_equal(batch.block_tables[0, :2], [2, 6])
