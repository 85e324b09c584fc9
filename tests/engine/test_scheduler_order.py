"""Who goes first in the scheduler, who makes room, and who is left out while paused."""

import pytest

from pyroclast.engine.request import Request
from scheduling import add, decoding, make, play


def due(scheduler, n_tokens, due_s):
    request = Request(list(range(n_tokens)))
    scheduler.add(request, due_s)
    return request


def test_what_is_due_first_is_admitted_first():
    scheduler = make(max_seqs=1)
    batch, interactive = due(scheduler, 2, 60.0), due(scheduler, 2, 1.0)
    assert play(scheduler) == [(interactive, 2, 1)]
    late = due(scheduler, 2, 61.0)  # interactive, but the batch request has waited for a minute
    scheduler.remove([interactive])
    assert play(scheduler) == [(batch, 2, 1)]
    scheduler.remove([batch])
    assert play(scheduler) == [(late, 2, 1)]


@pytest.mark.parametrize("short_of", [{"max_seqs": 2}, {"n_blocks": 6}], ids=str)
def test_what_is_due_later_makes_room(short_of):
    scheduler = make(max_batch_tokens=40, **short_of)
    first, later = due(scheduler, 7, 60.0), due(scheduler, 7, 61.0)
    play(scheduler)
    now = due(scheduler, 7, 1.0)
    step = [request for request, _, _ in play(scheduler)]
    assert now in step and first in step and later not in step
    assert scheduler.n_preemptions == 1
    assert list(scheduler.waiting) == [later]
    scheduler.remove([now])
    assert later in [request for request, _, _ in play(scheduler)]


def test_nobody_makes_room_for_what_is_due_after():
    scheduler = make(max_seqs=1)
    first = due(scheduler, 2, 0.0)
    play(scheduler)
    due(scheduler, 2, 0.0)
    for _ in range(5):
        assert [request for request, _, _ in play(scheduler)] == [first]
    assert scheduler.n_preemptions == 0


def test_waiting_counts_its_tokens():
    scheduler = make(max_seqs=1)
    requests = [add(scheduler, n) for n in (3, 4, 5)]
    assert (len(scheduler.waiting), scheduler.waiting.n_tokens) == (3, 12)
    play(scheduler)
    assert (len(scheduler.waiting), scheduler.waiting.n_tokens) == (2, 9)
    scheduler.remove([requests[1]])
    assert (len(scheduler.waiting), scheduler.waiting.n_tokens) == (1, 5)


# ---- paused --------------------------------------------------------------------------------


def test_a_paused_request_is_left_out_and_keeps_its_blocks():
    scheduler = make()
    a, b = decoding(scheduler, 3, 3)
    scheduler.pause([a])
    blocks, n_computed = a.blocks, a.n_computed
    for _ in range(6):
        assert play(scheduler) == [(b, 1, 1)]
    assert (a.blocks, a.n_computed) == (blocks, n_computed)
    scheduler.resume([a])
    assert play(scheduler) == [(a, 1, 1), (b, 1, 1)]


def test_with_everybody_paused_there_is_nothing_to_do():
    scheduler = make()
    [a] = decoding(scheduler, 3)
    scheduler.pause([a])
    assert not scheduler
    assert scheduler.schedule() == []
    scheduler.resume([a])
    assert scheduler


@pytest.mark.parametrize("short_of", [{"max_seqs": 1}, {"n_blocks": 5}], ids=str)
def test_a_paused_request_gives_way_even_to_younger_ones(short_of):
    scheduler = make(**short_of)
    [a] = decoding(scheduler, 7)
    scheduler.pause([a])
    b = add(scheduler, 12)
    while b.n_computed < 12:
        assert {request for request, _, _ in play(scheduler)} == {b}
    assert scheduler.parked == [a]
    assert a.blocks == []
    assert list(scheduler.requests()) == [b, a]
    scheduler.resume([a])
    assert scheduler.parked == []
    if "max_seqs" in short_of:  # it is due before b
        assert a in [request for request, _, _ in play(scheduler)]
    scheduler.remove([b])
    play(scheduler)
    assert scheduler.running == [a]


def test_a_paused_request_gives_way_to_one_that_grows():
    scheduler = make(n_blocks=4)
    a, b = decoding(scheduler, 7, 3)
    scheduler.pause([a])
    for _ in range(6):
        assert play(scheduler) == [(b, 1, 1)]
    assert scheduler.parked == [a]
    assert scheduler.n_preemptions == 0
    scheduler.restart_all()
    assert scheduler.parked == [a]
    scheduler.remove([a])
    assert scheduler.parked == []


def test_a_paused_request_that_waits_is_not_admitted():
    scheduler = make(max_seqs=1)
    [a] = decoding(scheduler, 3)
    b, c = add(scheduler, 2), add(scheduler, 2)
    scheduler.pause([b])
    scheduler.remove([a])
    assert play(scheduler) == [(c, 2, 1)]
    scheduler.resume([b])
    assert list(scheduler.waiting) == [] or b in scheduler.waiting
    assert play(scheduler) == [(b, 2, 1)]
