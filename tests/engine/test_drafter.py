"""What is predicted of a text, how sure of it, and how many drafts that is worth."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyroclast.engine.draft_costs import (
    AVX2_STEP_COSTS,
    MAX_DRAFTS,
    STEP_COSTS,
    cost_of,
    least_chance,
    n_drafts,
    step_costs,
)
from pyroclast.engine.drafter import MAX_CHANCE, Drafter
from pyroclast.engine.past_outputs import GRAM, PastOutputs

FLAT = (1.0,) * 16


def drafter(
    token_ids: list[int], n_prompt: int = 0, past: PastOutputs | None = None, root: bytes = b""
) -> Drafter:
    return Drafter(token_ids, n_prompt, past or PastOutputs(0), root)


# ---- one text --------------------------------------------------------------------------------


def test_what_followed_the_end_of_the_text_before_comes_again() -> None:
    found = drafter([1, 2, 3, 4, 5, 6, 7, 2, 3], n_prompt=7)
    assert found.read() > 0
    assert found.draft(3) == [4, 5, 6]


def test_nothing_is_predicted_of_a_text_without_repetition() -> None:
    found = drafter(list(range(50)), n_prompt=20)
    assert found.read() == 0.0


def test_the_longest_agreement_wins_and_of_two_the_later() -> None:
    text = [7, 8, 9, 1, 50, 8, 9, 2, 60, 8, 9, 3, 70, 7, 8, 9]
    found = drafter(text, n_prompt=13)
    found.read()
    assert found.draft(2) == [1, 50]
    found = drafter([*text[:-3], 4, 8, 9], n_prompt=13)
    found.read()
    assert found.draft(2) == [3, 70]


def test_one_exchanged_token_does_not_lose_the_place_but_two_do() -> None:
    prompt = list(range(20))
    text = [*prompt, 3, 4, 5, 6, 7, 98]
    found = drafter(text, n_prompt=20)
    found.read()
    assert found.draft(3) == [9, 10, 11]
    text.append(99)
    assert found.read() == 0.0
    # Behind a short match nothing is known.
    assert drafter([*prompt, 3, 4, 98], n_prompt=20).read() == 0.0


CHANGES = {"inserted": [7, 99, 8, 9], "exchanged": [7, 99, 9], "shorter": [7, 99], "out": [7, 9]}


def copied(change: str) -> tuple[list[int], list[int]]:
    """A source that has 7 8 9 twice, and a copy of its first half that writes something else."""
    source = [*range(1, 10), *range(11, 17), 7, 8, 9, *range(20, 30)]
    return source, [*range(1, 7), *CHANGES[change], *range(11, 17)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_copy_is_predicted_where_it_comes_again(change: str) -> None:
    source, copy = copied(change)
    found = drafter([*source, *copy], n_prompt=len(source))
    found.read()
    expected = [*CHANGES[change], 20, 21]
    assert found.draft(len(expected)) == expected


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_did_not_come_again_is_forgotten(change: str) -> None:
    source, copy = copied(change)
    found = drafter([*source, *copy, 7, 8], n_prompt=len(source))
    found.read()
    assert found.draft(3) == [9, 20, 21]  # the place is not lost
    assert not found._changes


def test_a_token_at_the_end_of_its_source_cannot_be_left_out() -> None:
    source, copy = copied("out")
    past = PastOutputs(1 << 20)
    past.add(b"", source[: -len([9, *range(20, 30)])])
    found = drafter([*copy, 7], past=past)
    found.read()
    assert found.draft(3) == [8]


def test_a_change_is_known_once_the_copy_has_gone_on() -> None:
    source, _ = copied("inserted")
    text = [*source, *range(1, 8), 99]
    found = drafter(text, n_prompt=len(source))
    found.read()
    assert found.draft(2) == [9, 11]  # as if 99 stood for 8
    text.append(8)
    found.read()
    assert found.draft(2) == [9, 11]
    text += [9, 11, 12, 98]  # another change is taken for one of the same kind
    found.read()
    assert found.draft(2) == [13, 14]


@pytest.mark.parametrize(("n_copied", "expected"), [(2, 106), (5, 200)])
def test_a_pair_that_is_surer_is_followed_behind_an_exchanged_token(
    n_copied: int, expected: int
) -> None:
    prompt = [*range(20, 90), *range(100, 110), 104, 7, 200, 201]
    text = list(prompt)
    for i in range(12):  # neither a pair nor a copy goes on behind a token of its own
        text += [*range(20 + 5 * i, 20 + n_copied + 5 * i), 900 + 2 * i, 901 + 2 * i]
    text += [100, 101, 102, 103, 104, 7]
    found = drafter(text, n_prompt=len(prompt))
    found.read()
    assert found.draft(1) == [expected]


def test_a_repetition_goes_on_beyond_the_end_of_the_text() -> None:
    found = drafter([1, 2, 3, 1, 2, 3, 1], n_prompt=1)
    found.read()
    assert found.draft(8) == [2, 3, 1, 2, 3, 1, 2, 3]


def test_a_text_is_read_as_it_grows() -> None:
    """Read token by token or at once: it predicts the same, and the chances are the same."""
    for seed in range(20):
        chance = random.Random(seed)
        text = [chance.randrange(6) for _ in range(200)]
        for token_id in text[:150]:  # and a copy of it with changes
            text += [[token_id], [token_id, 7], [7], []][max(0, chance.randrange(30) - 26)]
        growing: list[int] = text[:40]
        a = drafter(growing, n_prompt=40)
        for token_id in text[40:]:
            if chance.random() < 0.6:
                a.read()
            growing.append(token_id)
        b = drafter(list(text), n_prompt=40)
        assert a.read() == b.read()
        assert a.draft(8) == b.draft(8)


def test_it_becomes_surer_while_it_is_right_and_less_sure_when_not() -> None:
    text = [*range(100, 130), *range(100, 102)]
    found = drafter(text, n_prompt=30)
    chances = [found.read()]
    for token_id in range(102, 125):
        text.append(token_id)
        chances.append(found.read())
    assert chances == sorted(chances)
    assert chances[0] < 0.4
    assert 0.7 < chances[-1] <= MAX_CHANCE
    # Each pair stood before, and something else follows it each time.
    text = [each for i in range(400) for each in (1, 2, 1000 + i)]
    found = drafter(text, n_prompt=2)
    text.extend([1, 2])
    assert 0 < found.read() < 0.01


class Counting(dict[int, int]):
    """A dictionary that counts how often it is asked or changed."""

    n = 0

    def get(self, *args: Any) -> Any:
        self.n += 1
        return super().get(*args)

    def __setitem__(self, key: int, value: int) -> None:
        self.n += 1
        super().__setitem__(key, value)


def test_a_token_that_matches_nothing_costs_two_uses_of_a_dictionary() -> None:
    found = drafter(text := [0])
    found._last = counting = Counting()
    for token_id in range(1, 500):
        text.append(token_id)
        found.read()
    assert counting.n <= 2 * len(text)
    assert len(counting) == len(found._ends) == len(text)


# ---- answers of the past -----------------------------------------------------------------------


def test_an_answer_of_the_past_goes_on_where_it_begins_again() -> None:
    past = PastOutputs(1 << 20)
    past.add(b"", [1, 2, 3, 4, 5, 6, 7])
    found = drafter([90, 91, 2, 3, 4, 5], n_prompt=2, past=past)
    assert found.read() > 0
    assert found.draft(8) == [6, 7]
    fewer = drafter([90, 91, 3, 4, 5], n_prompt=2, past=past)
    assert fewer.read() == 0.0
    at_its_end = drafter([90, 3, 4, 5, 6, 7], n_prompt=1, past=past)
    assert at_its_end.read() == 0.0


def test_answers_with_another_root_are_not_seen() -> None:
    past = PastOutputs(1 << 20)
    past.add(b"a", [1, 2, 3, 4, 5, 6, 7])
    for root, is_found in ((b"a", True), (b"b", False), (b"", False)):
        assert bool(drafter([1, 2, 3, 4], past=past, root=root).read()) == is_found


def test_the_answer_that_was_used_least_recently_goes_first() -> None:
    past = PastOutputs(1 << 14)
    n_fit = (1 << 14) // past_bytes_of(past, list(range(8)))
    texts = [list(range(100 * i, 100 * i + 8)) for i in range(n_fit + 1)]
    for text in texts[:-1]:
        past.add(b"", text)
    assert past.find(b"", tuple(texts[0][:GRAM])) == (texts[0], GRAM)
    past.add(b"", texts[-1])
    assert past.find(b"", tuple(texts[0][:GRAM])) is not None
    assert past.find(b"", tuple(texts[1][:GRAM])) is None
    assert past.find(b"", tuple(texts[-1][:GRAM])) is not None


def past_bytes_of(past: PastOutputs, text: list[int]) -> int:
    other = PastOutputs(1 << 20)
    other.add(b"", text)
    return other.n_bytes


def test_the_store_is_bounded_and_finds_only_what_it_has() -> None:
    chance = random.Random(3)
    past = PastOutputs(1 << 15)
    for _ in range(2000):
        text = [chance.randrange(9) for _ in range(chance.randrange(300))]
        root = chance.choice([b"", b"a", b"b"])
        past.add(root, text)
        assert past.n_bytes <= 1 << 15
        query = tuple(chance.randrange(9) for _ in range(GRAM))
        found = past.find(root, query)
        if found is not None:
            there, end = found
            assert tuple(there[end - GRAM : end]) == query and end < len(there)
    held = {number for places in past._places.values() for number, _ in places.values()}
    assert held <= set(past._texts)
    assert sum(len(text) for _, text in past._texts.values()) == past.n_tokens


@pytest.mark.parametrize("n_tokens", [6, 50, 4000])
@pytest.mark.parametrize("n_ids", [2, 150_000])
def test_the_store_takes_no_more_memory_than_it_says(n_tokens: int, n_ids: int) -> None:
    """Whatever the texts are, and with a root for each."""
    chance = random.Random(3)
    tracemalloc.start()
    try:
        past = PastOutputs(2 << 20)
        for _ in range(20_000 // n_tokens):
            root = chance.randbytes(8) if n_tokens < 9 else b""
            past.add(root, [300 + chance.randrange(n_ids) for _ in range(n_tokens)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= 2 << 20


# ---- how many --------------------------------------------------------------------------------


def test_surer_drafts_are_more() -> None:
    counts = [n_drafts([chance], 1)[0] for chance in (0.0, 0.1, 0.4, 0.7, 0.9, 0.97)]
    assert counts == sorted(counts)
    assert counts[:2] == [0, 0] and 0 < counts[2] < counts[-1] == MAX_DRAFTS


def test_dearer_rows_are_fewer_drafts() -> None:
    dear = tuple(1.0 + 0.5 * i for i in range(16))
    free = n_drafts([0.6], 1, FLAT)[0]
    usual = n_drafts([0.6], 1)[0]
    assert free == MAX_DRAFTS > usual > n_drafts([0.6], 1, dear)[0]
    assert n_drafts([0.97], 1, tuple(float(i) for i in range(1, 17))) == [0]


def test_the_surest_of_a_batch_draft_first() -> None:
    counts = n_drafts([0.5, 0.97, 0.1], 8)
    assert counts[1] > counts[0] >= counts[2] == 0


@pytest.mark.parametrize("n_rows", [1, 2, 8, 20])
@pytest.mark.parametrize("chance", [0.3, 0.6, 0.9])
def test_no_other_number_promises_more(n_rows: int, chance: float) -> None:
    """Every number of drafts for one request, tried."""

    def rate(n: int) -> float:
        return (n_rows + sum(chance**j for j in range(1, n + 1))) / cost_of(n_rows + n)

    best = max(range(MAX_DRAFTS + 1), key=rate)
    [n] = n_drafts([chance], n_rows)
    assert n == (best if rate(best) > 1.04 * rate(0) else 0)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, MAX_CHANCE), min_size=1, max_size=20),
    st.integers(0, 9),
    st.sampled_from([STEP_COSTS, FLAT, tuple(map(float, range(1, 17))), (1.0, 3.0, 3.1)]),
)
def test_nobody_drafts_whose_chance_is_less_than_the_least(
    chances: list[float], n_more: int, costs: tuple[float, ...]
) -> None:
    n_rows = len(chances) + n_more
    if max(chances) < least_chance(n_rows, costs):
        assert not any(n_drafts(chances, n_rows, costs))


def test_the_least_chance_rises_with_the_batch() -> None:
    found = [least_chance(n_rows) for n_rows in (1, 2, 4, 8, 16)]
    assert found == sorted(found)
    assert 0.15 < found[0] < 0.25 and 0.6 < found[3] < 0.7
    # And is no more than it must be: a bit above that for a lone request drafts pay.
    assert n_drafts([found[0] + 0.15], 1) != [0]


def test_rows_cost_more_on_avx2() -> None:
    avx2 = step_costs({"norm.f32": "cpp-avx2", "matmul.q4_0": "cpp-avx2"})
    assert avx2 is AVX2_STEP_COSTS
    for variant in ("cpp-avx2+cython", "cpp-avx512"):
        assert step_costs({"matmul.q4_0": variant}) is AVX2_STEP_COSTS
    assert step_costs({"norm.f32": "cpp-avx2", "matmul.q4_0": "triton"}) is STEP_COSTS
    for variant in ("cpp-avx512vnni", "cpp-avx512int8", "cpp-avxvnni"):
        assert step_costs({"matmul.f16": "cpp-avx2", "matmul.q4_0": variant}) is STEP_COSTS
    assert n_drafts([0.97], 1, avx2)[0] < n_drafts([0.97], 1)[0]
    assert least_chance(8, avx2) > least_chance(8)


def test_the_cost_of_more_rows_goes_on_as_it_ended() -> None:
    assert cost_of(1) == 1.0
    assert cost_of(len(STEP_COSTS)) == STEP_COSTS[-1]
    step = STEP_COSTS[-1] - STEP_COSTS[-2]
    assert cost_of(len(STEP_COSTS) + 10) == pytest.approx(STEP_COSTS[-1] + 10 * step)
