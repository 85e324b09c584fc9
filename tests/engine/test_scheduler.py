"""The scheduler alone: `run` plays the model and appends a token to whoever was computed whole."""

import pytest

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.request import Request
from pyroclast.engine.scheduler import Scheduler


def make(*, n_blocks=16, block_size=4, max_batch_tokens=8, max_seqs=4, max_logits=4):
    return Scheduler(
        BlockPool(n_blocks),
        block_size=block_size,
        max_batch_tokens=max_batch_tokens,
        max_seqs=max_seqs,
        max_logits=max_logits,
    )


def add(scheduler, n_tokens, **options):
    request = Request(list(range(n_tokens)), **options)
    scheduler.add(request)
    return request


def play(scheduler):
    """One step: checks its limits and blocks, advances; returns the (request, tokens, rows)."""
    step = list(scheduler.schedule())
    plan = [(request, request.n_step_tokens, request.n_step_rows) for request in step]
    assert sum(n for _, n, _ in plan) <= scheduler.max_batch_tokens
    assert sum(n for _, _, n in plan) <= scheduler.max_logits
    owned = [block for request in scheduler.running for block in request.blocks]
    assert len(set(owned)) == scheduler.pool.n_blocks - scheduler.pool.n_free
    for request in step:
        assert (
            len(request.blocks) * scheduler.block_size >= request.n_computed + request.n_step_tokens
        )
        whole = request.n_computed + request.n_step_tokens == len(request.token_ids)
        request.advance()
        if whole:
            request.token_ids.append(0)
    return plan


def test_short_prompts_run_together():
    scheduler = make()
    a, b = add(scheduler, 3), add(scheduler, 5)
    assert play(scheduler) == [(a, 3, 1), (b, 5, 1)]
    assert play(scheduler) == [(a, 1, 1), (b, 1, 1)]


def test_a_long_prompt_is_read_in_chunks_beside_decoding():
    scheduler = make()
    a = add(scheduler, 2)
    play(scheduler)
    b = add(scheduler, 16)
    assert play(scheduler) == [(a, 1, 1), (b, 7, 0)]
    assert play(scheduler) == [(a, 1, 1), (b, 7, 0)]
    assert play(scheduler) == [(a, 1, 1), (b, 2, 1)]
    assert play(scheduler) == [(a, 1, 1), (b, 1, 1)]


def test_prompts_are_read_in_the_order_in_which_they_came():
    scheduler = make()
    a, b = add(scheduler, 10), add(scheduler, 10)
    assert play(scheduler) == [(a, 8, 0)]
    assert play(scheduler) == [(a, 2, 1), (b, 6, 0)]
    assert play(scheduler) == [(a, 1, 1), (b, 4, 1)]


def test_no_more_requests_run_than_a_step_has_room_for():
    for limit in ("max_seqs", "max_batch_tokens", "max_logits"):
        scheduler = make(**{limit: 2})
        requests = [add(scheduler, 1) for _ in range(3)]
        play(scheduler)
        assert [request for request, _, _ in play(scheduler)] == requests[:2]
        scheduler.remove([requests[0]])
        assert [request for request, _, _ in play(scheduler)] == requests[1:]


def test_the_youngest_gives_way_when_blocks_run_out_and_comes_back():
    scheduler = make(n_blocks=5)
    a, b = add(scheduler, 8), add(scheduler, 7)
    play(scheduler)  # a whole; it takes 2 blocks, b 2
    play(scheduler)  # b whole; a opens its third block: the last
    assert scheduler.pool.n_free == 0
    while scheduler.n_preemptions == 0:
        play(scheduler)
    assert scheduler.running == [a]
    assert list(scheduler.waiting) == [b]
    assert (b.blocks, b.n_computed) == ([], 0)
    n_tokens = len(b.token_ids)
    scheduler.remove([a])
    [(request, n, _)] = play(scheduler)
    assert request is b
    assert n == min(n_tokens, 8)


def test_everybody_finishes_in_a_cache_that_holds_one():
    scheduler = make(n_blocks=4, max_seqs=4)
    requests = [add(scheduler, n) for n in (5, 9, 2, 7)]
    finished = []
    for _ in range(200):
        play(scheduler)
        done = [request for request in scheduler.running if len(request.token_ids) >= 16]
        finished += done
        scheduler.remove(done)
        if not scheduler:
            break
    assert finished == requests  # the oldest first: nobody overtakes
    assert scheduler.n_preemptions > 0
    assert scheduler.pool.n_free == 4


def test_prompt_rows_are_asked_for_once_and_within_the_limit():
    scheduler = make(max_logits=4)
    a = add(scheduler, 2)
    play(scheduler)
    b = add(scheduler, 7, wants_prompt_rows=True)
    assert play(scheduler) == [(a, 1, 1), (b, 3, 3)]
    assert play(scheduler) == [(a, 1, 1), (b, 3, 3)]
    scheduler.restart_all()
    # Computed again from the start, but only the last row is still missing.
    assert play(scheduler) == [(a, 5, 1), (b, 3, 0)]
    assert play(scheduler) == [(a, 1, 1), (b, 4, 1)]
    assert b.n_rows_done == 7


def test_a_request_computed_whole_but_without_its_token_gives_its_row_again():
    scheduler = make()
    a = add(scheduler, 3, wants_prompt_rows=True)
    scheduler.schedule()
    a.advance()  # interrupted before a token was appended
    scheduler.restart_all()
    assert play(scheduler) == [(a, 3, 1)]


def test_the_tokens_that_wait_are_counted_again_after_an_interruption():
    scheduler = make()
    add(scheduler, 3)
    scheduler.waiting.n_tokens += 5
    scheduler.restart_all()
    assert scheduler.waiting.n_tokens == 3


def test_rows_that_are_missing_shorten_a_chunk():
    scheduler = make(max_logits=2)
    a, b = add(scheduler, 4, wants_prompt_rows=True), add(scheduler, 3)
    assert play(scheduler) == [(a, 2, 2), (b, 2, 0)]  # not b's last token: no row is left for it
    # That last token counts as a decode step, and decoding goes first.
    assert play(scheduler) == [(b, 1, 1), (a, 1, 1)]


def test_layout_stays_while_the_same_requests_decode():
    scheduler = make()
    a = add(scheduler, 2)
    add(scheduler, 2)
    play(scheduler)
    play(scheduler)
    layout = scheduler.layout
    play(scheduler)
    assert scheduler.layout == layout
    scheduler.remove([a])
    play(scheduler)
    assert scheduler.layout != layout
    play(scheduler)
    layout = scheduler.layout
    add(scheduler, 2)
    play(scheduler)
    assert scheduler.layout != layout


def test_layout_changes_with_a_preemption():
    scheduler = make(n_blocks=5)
    add(scheduler, 8)
    add(scheduler, 7)
    layouts = set()
    while scheduler.n_preemptions == 0:
        layouts.add(scheduler.layout)
        play(scheduler)
    assert scheduler.layout not in layouts


def test_remove_forgets_waiting_and_running_alike():
    scheduler = make(max_seqs=1)
    a, b, c = (add(scheduler, 4) for _ in range(3))
    play(scheduler)
    assert scheduler.remove([a, b]) != []
    assert list(scheduler.requests()) == [c]
    assert scheduler.remove([c]) == []
    assert not scheduler
    assert scheduler.schedule() == []
    assert scheduler.pool.n_free == 16


@pytest.mark.parametrize("n_tokens", [1, 4, 5])
def test_a_prompt_takes_the_blocks_that_it_needs(n_tokens):
    scheduler = make()
    request = add(scheduler, n_tokens)
    scheduler.schedule()
    assert len(request.blocks) == -(-n_tokens // 4)


# ---- drafts --------------------------------------------------------------------------------


def decoding(scheduler, *n_tokens):
    """Requests that have read their prompts."""
    requests = [add(scheduler, n) for n in n_tokens]
    while any(request.n_computed < request.n_prompt for request in requests):
        play(scheduler)
    return requests


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


# ---- prompts side by side ------------------------------------------------------------------


def test_a_short_prompt_beside_a_long_one_is_read_at_once():
    scheduler = make(n_blocks=64)
    a = add(scheduler, 100)
    assert play(scheduler) == [(a, 8, 0)]
    b = add(scheduler, 3)
    assert play(scheduler) == [(a, 5, 0), (b, 3, 1)]
    assert play(scheduler) == [(b, 1, 1), (a, 7, 0)]


def test_the_shortest_goes_before_others_but_the_oldest_always_comes_on():
    scheduler = make(n_blocks=64, max_seqs=8, max_logits=8)
    a, b, c = add(scheduler, 40), add(scheduler, 30), add(scheduler, 6)
    assert play(scheduler) == [(a, 4, 0), (c, 4, 0)]
    assert play(scheduler) == [(a, 4, 0), (c, 2, 1), (b, 2, 0)]
    for _ in range(20):  # short ones keep coming
        add(scheduler, 4)
        play(scheduler)
        if a.n_computed == 40:
            break
        assert any(request is a and request.n_step_tokens for request in scheduler.running)
    assert a.n_computed >= 40


# ---- order ---------------------------------------------------------------------------------


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


# ---- prompts beside streams ----------------------------------------------------------------


class Live(Request):
    is_live = True


def test_beside_a_stream_a_prompt_gets_what_the_pace_allows():
    scheduler = make(n_blocks=64, max_batch_tokens=40)
    a = Live([1, 2])
    scheduler.add(a)
    play(scheduler)
    b = add(scheduler, 100)
    assert play(scheduler) == [(a, 1, 1)]  # timed without it first
    scheduler.pace.note(1, 0, 0.010)
    scheduler.pace.note(0, 100, 0.1)  # a millisecond a token: ten make a step twice as long
    assert play(scheduler) == [(a, 1, 1), (b, 10, 0)]
    scheduler.remove([a])
    assert play(scheduler) == [(b, 40, 0)]


def test_beside_others_a_prompt_gets_all_the_room():
    scheduler = make(n_blocks=64, max_batch_tokens=40)
    [a] = decoding(scheduler, 2)
    b = add(scheduler, 100)
    assert play(scheduler) == [(a, 1, 1), (b, 39, 0)]
