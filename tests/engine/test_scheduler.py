"""The scheduler alone: `play` is the model, and appends a token to whoever was computed whole."""

import pytest

from scheduling import Live, add, decoding, make, play


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


# ---- prompts beside streams ----------------------------------------------------------------


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
