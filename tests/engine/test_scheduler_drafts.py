"""Drafts in the scheduler's steps: they take what is left over."""

import pytest

from pyroclast.engine.request import Request
from scheduling import Live, add, decoding, make, play


def plan(scheduler):
    return [(r, r.n_step_tokens, r.n_step_rows) for r in scheduler.schedule()]


def test_drafts_are_computed_behind_the_last_token_each_with_its_row():
    scheduler = make()
    a, b = decoding(scheduler, 3, 2)
    scheduler.propose(a, [7, 8])
    assert plan(scheduler) == [(a, 3, 3), (b, 1, 1)]
    assert (a.draft_ids, a.n_step_drafts, b.n_step_drafts) == ([7, 8], 2, 0)
    a.n_computed, b.n_computed = a.n_computed + 1, b.n_computed + 1
    for request in (a, b):
        request.token_ids.append(0)
    assert plan(scheduler) == [(a, 1, 1), (b, 1, 1)]
    assert a.n_step_drafts == 0


@pytest.mark.parametrize(
    ("limits", "n_planned"),
    [
        ({"max_batch_tokens": 6, "max_logits": 40}, [3, 1]),
        ({"max_logits": 7, "max_batch_tokens": 40}, [3, 2]),
        ({"max_batch_tokens": 40, "max_logits": 40, "n_blocks": 3}, [0, 3]),
        ({"max_batch_tokens": 40, "max_logits": 40}, [3, 3]),
    ],
    ids=str,
)
def test_drafts_take_what_is_left_over_the_oldest_first(limits, n_planned):
    scheduler = make(**limits)
    a, b = decoding(scheduler, 3, 4)
    for request in (a, b):
        scheduler.propose(request, [1, 2, 3])
    scheduler.schedule()
    assert [a.n_step_drafts, b.n_step_drafts] == n_planned


class TablesVary(Request):
    tables_vary = True


def test_rows_with_tables_of_their_own_are_no_more_than_there_are_tables():
    scheduler = make(max_seqs=5, max_batch_tokens=40, max_logits=40)
    requests = [TablesVary([1]), Request([1]), TablesVary([1])]
    for request in requests:
        scheduler.add(request)
    play(scheduler)
    for request in requests:
        scheduler.propose(request, [1, 2, 3])
    scheduler.schedule()
    assert [request.n_step_drafts for request in requests] == [2, 3, 0]


def test_prompts_go_before_drafts():
    scheduler = make()
    [a] = decoding(scheduler, 3)
    b = add(scheduler, 20)
    scheduler.propose(a, [1, 2])
    assert plan(scheduler) == [(a, 1, 1), (b, 7, 0)]


def test_drafts_need_a_prompt_that_was_read():
    scheduler = make()
    a = add(scheduler, 1)
    scheduler.propose(a, [1, 2])
    assert plan(scheduler) == [(a, 1, 1)]


def test_drafts_need_a_text_that_the_step_computes_whole():
    """A grammar has forced many tokens; beside a stream a step computes only some of them."""
    scheduler = make(max_batch_tokens=40, max_logits=40)
    [a] = decoding(scheduler, 3)
    scheduler.add(Live([1, 2]))
    play(scheduler)
    a.token_ids += range(30)
    scheduler.pace.note(1, 0, 0.01)
    n_drafts = []
    while not any(n_drafts):
        n_unread = a.n_unread
        scheduler.propose(a, [1, 2, 3])
        step = scheduler.schedule()
        n_drafts.append(a.n_step_drafts)
        assert a.n_step_tokens == n_unread + 3 if a.n_step_drafts else a.n_step_tokens < n_unread
        for request in step:
            request.n_computed += request.n_step_tokens - request.n_step_drafts
            if request is not a:
                request.token_ids.append(0)
    assert n_drafts[0] == 0
    assert n_drafts[-1] == 3


def test_blocks_of_rejected_drafts_come_back_before_anybody_gives_way():
    scheduler = make(n_blocks=4, max_batch_tokens=40, max_logits=40)
    a, b = decoding(scheduler, 3, 3)
    scheduler.propose(a, [1, 2, 3, 4, 5])
    scheduler.schedule()
    assert (a.n_step_drafts, scheduler.pool.n_free) == (5, 0)
    for request in (a, b):  # all drafts were wrong
        request.n_computed += 1
        request.token_ids.append(0)
    assert plan(scheduler) == [(a, 1, 1), (b, 1, 1)]
    assert [len(a.blocks), len(b.blocks)] == [2, 2]
    assert scheduler.n_preemptions == 0
