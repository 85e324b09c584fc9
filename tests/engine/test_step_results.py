"""What a row of results says, in Python's own values."""

import numpy as np
import pytest

from pyroclast.engine.step_results import StepResults
from pyroclast.sampling.arrays import SampleArrays


@pytest.fixture
def arrays():
    """Two rows of a vocabulary of 5; whatever is not a row's own is 9."""
    arrays = SampleArrays(vocab_size=5, max_seq_len=8, max_rows=2, max_seqs=2)
    arrays.top_ids[:], arrays.top_logprobs[:] = 9, 9.0
    arrays.out[1] = (3, 0, 1, 2, 1, -0.5)
    arrays.top_ids[1, :5] = [4, 3, 0, -1, -1]
    arrays.top_logprobs[1, :5] = [-0.25, -0.5, -1.0, -np.inf, -np.inf]
    return arrays


def test_a_row_tells_of_its_own_token(arrays):
    found = StepResults(arrays).logprobs(1, 0)
    assert (found.token_id, found.logprob, found.rank, found.is_greedy) == (3, -0.5, 2, True)
    assert found.top == [] and type(found.is_greedy) is bool


@pytest.mark.parametrize("n_top", [2, 3, 4, 5, 128])
def test_the_most_likely_tokens_are_those_asked_for_as_far_as_there_are_any(arrays, n_top):
    found = StepResults(arrays).logprobs(1, n_top)
    assert found.top == [(4, -0.25), (3, -0.5), (0, -1.0)][:n_top]
