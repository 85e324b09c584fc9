import random

import pytest

from pyroclast.engine.stop import StopText


def run(pieces, stops, n_uncounted=0):
    """What comes out piece by piece, and which stop string was found; none may end in the first
    `n_uncounted` pieces."""
    stop_text = StopText(stops)
    out = [stop_text.push(piece, i >= n_uncounted) for i, piece in enumerate(pieces)]
    if stop_text.found is None:
        out.append(stop_text.flush())
    return "".join(out), stop_text.found


def first_complete(text, stops, n_uncounted=0):
    """The definition: the stop string complete after the fewest characters, but more than
    `n_uncounted`, the longest of them."""
    for end in range(n_uncounted + 1, len(text) + 1):
        ending = [stop for stop in stops if text.endswith(stop, 0, end)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("pieces", [["one STOP two"], list("one STOP two"), ["one ST", "OP two"]])
def test_text_ends_before_a_stop_string_however_it_is_cut(pieces):
    assert run(pieces, ["STOP"]) == ("one ", "STOP")


def test_holds_back_what_could_begin_a_stop_string():
    stop_text = StopText(["<end>"])
    assert stop_text.push("a<e") == "a"
    assert stop_text.push("n") == ""
    assert stop_text.push("!") == "<en!"
    assert stop_text.push("b<en") == "b"
    assert stop_text.flush() == "<en"


def test_holds_back_no_more_than_needed():
    stop_text = StopText(["aab"])
    assert stop_text.push("aaaa") == "aa"  # the last two could go on to "aab"
    assert stop_text.push("b") == ""
    assert stop_text.found == "aab"


def test_nothing_comes_after_a_stop_string():
    stop_text = StopText(["x"])
    assert stop_text.push("abxcd") == "ab"
    assert stop_text.push("ef") == ""
    assert stop_text.flush() == ""


def test_the_stop_string_that_is_complete_first_wins():
    assert run(["abcd"], ["abcd", "bc"]) == ("a", "bc")


def test_of_two_that_end_together_the_longest_wins():
    assert run(list("xabc"), ["bc", "abc"]) == ("x", "abc")


def test_agrees_with_the_definition_on_random_texts():
    rng = random.Random(1)
    for _ in range(2000):
        text = "".join(rng.choices("ab.", k=rng.randrange(12)))
        stops = ["".join(rng.choices("ab.", k=rng.randrange(1, 5))) for _ in range(3)]
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        n = rng.randrange(len(pieces) + 1)
        expected = first_complete(text, stops, len("".join(pieces[:n])))
        assert run(pieces, stops, n) == expected, (pieces, stops, n)


@pytest.mark.parametrize("n_uncounted", range(12))
def test_a_stop_string_counts_if_its_last_character_does(n_uncounted):
    pieces = list("one STOP two")
    expected = ("one ", "STOP") if n_uncounted <= 7 else ("one STOP two", None)
    assert run(pieces, ["STOP"], n_uncounted) == expected


def test_a_stop_string_inside_held_text_that_does_not_count_is_not_found():
    assert run(["ab", "", "x"], ["b", "abc"], n_uncounted=1) == ("abx", None)
