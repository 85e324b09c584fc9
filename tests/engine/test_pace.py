"""The pace of prompts beside streams, with made-up step times."""

import random
from statistics import median

import pytest

from pyroclast.engine.pace import Pace


class Machine:
    """Step times: a step that decodes, what the first token of a prompt adds, what each adds.
    deepens: by how much every position before them makes these two longer."""

    def __init__(self, decode_s, first_s, token_s, noise=0.0, deepens=0.0):
        self.decode_s, self.first_s, self.token_s, self.noise = decode_s, first_s, token_s, noise
        self.deepens = deepens
        self.rng = random.Random(1)

    def time(self, n_decoding, n_tokens, n_before=0):
        seconds = self.decode_s * (1 + 0.1 * n_decoding) if n_decoding else self.decode_s
        added_s = (self.first_s if n_tokens else 0) + n_tokens * self.token_s
        seconds += added_s * (1 + self.deepens * n_before)
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
    steps, n_before = [], 0
    while n_unread > 0:
        n_tokens = min(n_unread, pace.n_tokens_beside(n_decoding, n_unread, 1))
        seconds = machine.time(n_decoding, n_tokens, n_before)
        n_before += n_tokens
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
    asked = [n_tokens for n_tokens, _ in steps]
    assert median(asked) == 0 and asked.count(2) > len(asked) / 5.2


@pytest.mark.parametrize(("n_prompt", "most"), [(4000, 2.0), (8000, 2.3), (16_000, 2.6)])
def test_streams_have_what_is_promised_however_deep_a_prompt_is(n_prompt, most):
    """The 135M's costs beside one stream.  At position 16,000 two tokens take a step to 8.2."""
    machine = Machine(0.0038, 0.0006, 0.0009, deepens=0.0007)
    steps, quiet_s = read_beside(machine, 1, n_unread=n_prompt)
    times = [seconds / quiet_s for _, seconds in steps]
    assert median(times) < 2.3
    assert sum(times) / len(times) < most
    deepest = times[-len(times) // 8 :]
    assert sum(deepest) / len(deepest) < 2.6
    assert len(steps) < 2.1 * n_prompt  # but the prompt comes on


@pytest.mark.parametrize(("seconds", "n_rests"), [(0.024, 0), (0.039, 1), (0.041, 2), (9.0, 4)])
def test_how_many_steps_go_without_after_one_that_took_too_long(seconds, n_rests):
    pace = Pace()
    pace.note(0, 100, 0.5)
    pace.note(1, 0, 0.01)
    asked = []
    for _ in range(30):
        asked.append(pace.n_tokens_beside(1, 100, 1))
        pace.note(1, asked[-1], seconds if asked[-1] else 0.01)
    assert asked == ([2] + [0] * n_rests) * (30 // (1 + n_rests))


def test_several_prompts_beside_few_streams_stretch_the_promise_too():
    pace = Pace()
    pace.note(0, 100, 100.0)
    pace.note(1, 0, 0.01)
    for _ in range(5):
        assert pace.n_tokens_beside(1, 900, 9) == 2
        pace.note(1, 2, 0.8)


def test_a_prompt_comes_on_while_no_step_is_noted():
    """Steps with drafts are not."""
    pace = Pace()
    assert [pace.n_tokens_beside(1, 100, 1) for _ in range(4)] == [0, 2, 2, 2]
    pace.note(0, 100, 0.5)
    pace.note(1, 0, 0.01)
    assert pace.n_tokens_beside(1, 100, 1) == 2
    pace.note(1, 2, 9.0)
    assert [pace.n_tokens_beside(1, 100, 1) for _ in range(6)] == [0, 0, 0, 0, 2, 2]
    for _ in range(30):
        pace.note(1, 50, 0.02)
    assert [pace.n_tokens_beside(1, 100, 1) for _ in range(3)] == [0, 2, 2]


def test_a_step_that_only_decodes_may_put_its_time_straight_where_it_counts():
    noted, straight = Pace(), Pace()
    for pace in (noted, straight):
        pace.note(0, 100, 0.5)
    times = straight.decode_times(2)
    for _ in range(9):
        noted.note(2, 0, 0.03)
        times.append(0.03)
    assert noted.n_tokens_beside(2, 100, 1) == straight.n_tokens_beside(2, 100, 1) == 6


def test_a_step_that_was_interrupted_costs_a_prompt_nothing():
    pace = Pace()
    pace.note(0, 100, 0.5)
    pace.note(1, 0, 0.01)
    for seconds in (0.02, 0.02, 9.0, 0.02, 9.0, 0.02):
        assert pace.n_tokens_beside(1, 100, 1) == 2
        pace.note(1, 2, seconds)


def test_streams_keep_the_promise_on_a_busy_machine():
    """Where the times kept of steps without prompts are too long, chunks are too large until such
    a step is timed again: it must not come later then than otherwise."""
    machine = Machine(0.0038, 0.0006, 0.0009, noise=0.3, deepens=0.0007)
    found = []
    for seed in range(9):
        machine.rng = random.Random(seed)
        steps, _ = read_beside(machine, 1)
        found.append(median(seconds for _, seconds in steps) / (0.0038 * 1.1))
    assert median(found) < 2.5


def test_the_time_without_prompts_is_measured_first_and_again():
    pace = Pace()
    assert pace.n_tokens_beside(1, 2, 1) == 2  # so few cost no more than the measurement
    assert pace.n_tokens_beside(1, 100, 1) == 0
    pace.note(1, 0, 0.01)
    pace.note(0, 100, 0.1)
    assert pace.n_tokens_beside(1, 100, 1) == 10
    steps, _ = read_beside(Machine(0.005, 0.0, 0.001), 1)
    assert [n for n, _ in steps[:93]].count(0) == 3


def test_a_number_of_streams_that_was_not_seen_counts_like_the_nearest():
    pace = Pace()
    pace.note(0, 100, 0.1)
    pace.note(2, 0, 0.01)
    pace.note(20, 0, 0.03)
    assert [pace.n_tokens_beside(n, 100, 1) for n in (1, 2, 5, 18, 30)] == [10, 10, 10, 30, 30]


def seconds_together(machine, paced, n_requests=8, n_prompt=110, n_gen=64):
    """How long it takes until requests that come at once have their answers."""
    pace, total_s = Pace(), 0.0
    pace.note(0, 400, machine.time(0, 400))
    for n in (1, n_requests):
        pace.note(n, 0, machine.time(n, 0))
    unread, unwritten = [n_prompt] * (n_requests - 1), [n_gen - 1]
    while unread or unwritten:
        n_tokens = sum(unread)
        if paced and unread and unwritten:
            n_asked = pace.n_tokens_beside(len(unwritten), n_tokens, len(unread))
            n_tokens = min(n_tokens, n_asked)
        seconds = machine.time(len(unwritten), n_tokens)
        pace.note(len(unwritten), n_tokens, seconds)
        total_s += seconds
        unwritten = [n - 1 for n in unwritten if n > 1]
        while n_tokens:
            n_read = min(n_tokens, unread[0])
            n_tokens -= n_read
            unread[0] -= n_read
            if not unread[0]:
                unread.pop(0)
                unwritten.append(n_gen - 1)
    return total_s


def test_requests_that_come_at_once_take_little_longer_than_without_a_pace(monkeypatch):
    machine = Machine(0.002, 0.0, 0.0005)
    alone_s = seconds_together(machine, paced=False)
    assert seconds_together(machine, paced=True) < 1.15 * alone_s
    monkeypatch.setattr("pyroclast.engine.pace._PROMPT_WEIGHT", 0)
    assert seconds_together(machine, paced=True) > 1.3 * alone_s


def test_many_prompts_count_as_seven_and_less_beside_many_streams():
    pace = Pace()
    pace.note(0, 100, 0.1)
    pace.note(1, 0, 0.01)
    asked = [pace.n_tokens_beside(1, 9000, n) for n in (1, 2, 3, 9, 60)]
    assert asked == [10, 110, 230, 710, 710]
    assert [pace.n_tokens_beside(n, 9000, 9) for n in (8, 16, 32, 64)] == [80, 35, 12, 10]


def test_a_short_prompt_alone_does_not_tell_what_a_token_costs():
    pace = Pace()
    pace.note(0, 5, 0.01)
    pace.note(0, 500, 0.1)
    pace.note(0, 5, 0.01)
    pace.note(1, 0, 0.01)
    assert pace.n_tokens_beside(1, 100, 1) == 50


def test_a_rest_that_was_not_noted_leaves_no_number_of_streams_without_a_time():
    """Its step had drafts; the next one only decodes, beside one more stream."""
    pace = Pace()
    pace.note(0, 100, 0.5)
    pace.note(1, 0, 0.01)
    assert pace.n_tokens_beside(1, 100, 1) == 2
    pace.note(1, 2, 9.0)
    assert pace.n_tokens_beside(1, 100, 1) == 0
    pace.note(2, 0, 0.01)
    pace.decode_times(2)
    assert [pace.n_tokens_beside(2, 100, 1) for _ in range(4)] == [0, 0, 0, 2]
