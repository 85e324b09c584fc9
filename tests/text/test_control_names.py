import random
import re
import time

from pyroclast.text.control_names import ControlNames


def test_names_are_found_as_a_regular_expression_finds_them():
    rng = random.Random(2)
    for _ in range(3000):
        names = {"".join(rng.choices("ab<", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 6))}
        text = "".join(rng.choices("ab<!", k=rng.randint(0, 12)))
        found = ControlNames(names)
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        one = "|".join(longest_first) or "(?!)"
        expected = [(m.start(), m[0]) for m in re.finditer(f"(?<!!)(?:{one})", text)]
        assert list(found.unmarked(text, "!")) == expected
        end = next(
            (
                i
                for i in range(len(text))
                if any(n.startswith(text[i:]) and n != text[i:] for n in names)
            ),
            len(text),
        )
        marked = re.sub(f"(?={one})", "|", text)
        if end == len(text):
            assert found.marked(text, "|") == marked
        else:
            assert found.marked(text, "|").endswith("".join("|" + char for char in text[end:]))
        assert found.marked(text, "|").replace("|", "") == text


def test_many_long_names_cost_little():
    names = [f"{i:04}" + "x" * 1000 for i in range(1000)]
    start = time.thread_time()
    found = ControlNames(names)
    text = "0123x" * 2000
    assert found.marked(text, "|").replace("|", "") == text
    assert list(found.unmarked(names[7] + "x", "|")) == [(0, names[7])]
    assert time.thread_time() - start < 1
