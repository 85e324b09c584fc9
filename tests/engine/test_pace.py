"""The pace of prompts beside streams, with made-up step times."""

import random
from statistics import median

import pytest

from pyroclast.engine.pace import Pace


class Machine:
    """Step times: a step that decodes, what the first token of a prompt adds, what each adds."""

    def __init__(self, decode_s, first_s, token_s, noise=0.0):
        self.decode_s, self.first_s, self.token_s, self.noise = decode_s, first_s, token_s, noise
        self.rng = random.Random(1)

    def time(self, n_decoding, n_tokens):
        seconds = self.decode_s * (1 + 0.1 * n_decoding) if n_decoding else self.decode_s
        seconds += (self.first_s if n_tokens else 0) + n_tokens * self.token_s
        if self.rng.random() < self.noise:
            seconds *= self.rng.uniform(1, 6)  # somebody else had the core
        return seconds


def read_beside(machine, n_decoding, n_unread=4000, n_quiet=20):
    """Reads a prompt beside streams: the (tokens, seconds) of its steps, and of quiet ones."""
    pace = Pace()
    pace.note(0, 200, machine.time(0, 200))
    quiet = [machine.time(n_decoding, 0) for _ in range(n_quiet)]
    for seconds in quiet:
        pace.note(n_decoding, 0, seconds)
    steps = []
    while n_unread > 0:
        n_tokens = min(n_unread, pace.n_tokens_beside(n_decoding, n_unread))
        seconds = machine.time(n_decoding, n_tokens)
        pace.note(n_decoding, n_tokens, seconds)
        steps.append((n_tokens, seconds))
        n_unread -= n_tokens
    return steps, median(quiet)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("n_decoding", [1, 8, 40])
@pytest.mark.parametrize(
    "costs", [(0.005, 0.002, 0.0012), (0.005, 0.0, 0.0001), (0.02, 0.0, 0.002)], ids=str
)
def test_a_step_takes_about_twice_as_long_and_the_room_is_used(costs, n_decoding, noise):
    steps, quiet_s = read_beside(Machine(*costs, noise), n_decoding)
    stretch = median(seconds for _, seconds in steps) / quiet_s
    assert 1.5 < stretch < 2.4
    assert len(steps) < 4000 / 2


def test_a_prompt_always_comes_on():
    steps, _ = read_beside(Machine(0.001, 0.01, 0.01), 1, n_unread=300)
    assert median(n_tokens for n_tokens, _ in steps) == 2


def test_the_time_without_prompts_is_measured_first_and_again():
    pace = Pace()
    assert pace.n_tokens_beside(1, 2) == 2  # so few cost no more than the measurement
    assert pace.n_tokens_beside(1, 100) == 0
    pace.note(1, 0, 0.01)
    pace.note(0, 100, 0.1)
    assert pace.n_tokens_beside(1, 100) == 10
    steps, _ = read_beside(Machine(0.005, 0.0, 0.001), 1)
    assert [n for n, _ in steps[:93]].count(0) == 3


def test_a_number_of_streams_that_was_not_seen_counts_like_the_nearest():
    pace = Pace()
    pace.note(0, 100, 0.1)
    pace.note(2, 0, 0.01)
    pace.note(20, 0, 0.03)
    assert [pace.n_tokens_beside(n, 100) for n in (1, 2, 5, 18, 30)] == [10, 10, 10, 30, 30]


def test_a_short_prompt_alone_does_not_tell_what_a_token_costs():
    pace = Pace()
    pace.note(0, 5, 0.01)
    pace.note(0, 500, 0.1)
    pace.note(0, 5, 0.01)
    pace.note(1, 0, 0.01)
    assert pace.n_tokens_beside(1, 100) == 50
