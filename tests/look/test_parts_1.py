"""Words, P(next | context), temperature and the loop: their numbers, and what they do."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import numpy as np
import pytest

from look_page import Watched, bars, percent, until, visible
from pyroclast import LLM, SamplingParams, lens, sampling

TEXT = "Once upon a"
LINK = "text=Once+upon+a"
CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.3, "typical_p": 0.8, "top_n_sigma": 3.0},
    {"temperature": 0.0},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": -0.2, "top_p": 0.5},
    {"logit_bias": {655: 4.5, 28: -7.0}, "allowed_token_ids": (655, 28, 260, 253)},
]
TRACE = """async ([logits_b64, cases, draw]) => {
  const { floats } = await import("./js/api.js");
  const { redraw, trace } = await import("./js/sampler.js");
  const { DEFAULT_PARAMS } = await import("./js/state.js");
  return cases.map((params) => {
    const found = trace(floats(logits_b64), { ...DEFAULT_PARAMS, ...params }, draw);
    const counts = [...redraw(found.stages.at(-1).p, 12, draw)];
    const few = (p) => draw.ids.map((id) => p[id]);
    const stages = found.stages.map(({ p, ...stage }) => ({ ...stage, p: few(p) }));
    return { ...found, stages, counts };
  });
}"""


def test_the_sampler_of_the_page_is_the_reference(watched: Watched, llm: LLM) -> None:
    found = lens.next_token(llm, TEXT)
    ids = [each.id for each in found.top[:20]]
    draw = {"seed": 42, "position": 6, "promptIds": [1, *ids[:3]], "outputIds": [*ids[2:4], ids[3]]}
    logits = base64.b64encode(found.logits.tobytes()).decode()
    page = watched.open("#part=words")
    got = page.evaluate(TRACE, [logits, [dict(case) for case in CASES], {**draw, "ids": ids}])
    for case, mine in zip(CASES, got, strict=True):
        params = SamplingParams(seed=42, **case)
        given = {"prompt_ids": draw["promptIds"], "output_ids": draw["outputIds"]}
        wanted = sampling.trace(found.logits, params, position=6, n_tokens=20, **given)
        assert (mine["token_id"], mine["u"]) == (wanted.token_id, wanted.u)
        assert mine["cdf"] == pytest.approx(wanted.cdf, abs=1e-12)
        for stage, theirs in zip(mine["stages"], wanted.stages, strict=True):
            assert stage["name"] == theirs.name
            assert (stage["n_kept"], stage["n_removed"]) == (theirs.n_kept, theirs.n_removed)
            assert stage["entropy"] == pytest.approx(theirs.entropy, abs=1e-9)
            probs = {each.token_id: each.probs[theirs.name] for each in wanted.tokens}
            assert stage["p"] == pytest.approx([probs[i] for i in ids], rel=1e-9, abs=1e-15)
        if wanted.u is None:
            continue
        again = [
            sampling.trace(found.logits, params, position=6, completion=i, **given).token_id
            for i in range(12)
        ]
        assert dict(mine["counts"]) == {i: again.count(i) for i in set(again)}


def test_the_page_shows_the_numbers_of_python(watched: Watched, llm: LLM) -> None:
    found = lens.next_token(llm, TEXT)
    page = watched.open(f"#part=next&{LINK}")
    wanted = [(visible(each.text), percent(each.p)) for each in found.top[:20]]
    assert bars(page) == wanted
    shown = page.inner_text("#part-root .figures")
    for value in (f"{found.entropy:.2f} nats", f"{found.n_equal_sides:.1f}"):
        assert value in shown
    order = np.sort(np.exp(found.logits.astype(np.float64) - found.log_z))[::-1]
    assert f"{1 + np.count_nonzero(np.cumsum(order) < 0.9):,}" in shown
    tokens = lens.tokens(llm, TEXT)
    page = watched.open(f"?words#part=words&{LINK}")
    assert page.locator(".chip-id").all_inner_texts() == [str(i) for i in tokens.token_ids]
    assert page.locator(".chip-text").all_inner_texts() == [visible(p.text) for p in tokens.pieces]


def test_a_changed_word_moves_the_distribution(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=next&text=The+capital+of+France+is")
    page.fill("#other-text", "The capital of Italy is")
    found = lens.next_token(llm, "The capital of Italy is")
    best = found.top[0]
    row = page.locator(".card:has(#other-text) .bars >> nth=1").get_by_text(visible(best.text))
    row.first.wait_for()
    # Two words: the chain rule with the likeliest first one.
    first = lens.next_token(llm, "The capital of France is")
    second = lens.next_token(llm, [*first.token_ids, first.top[0].id]).top[0]
    cells = page.locator(".card:has-text('Two words') tbody tr >> nth=0").locator("td")
    assert cells.all_inner_texts() == [
        visible(first.top[0].text), visible(second.text), percent(first.top[0].p),
        percent(second.p), percent(first.top[0].p * second.p),
    ]  # fmt: skip


def test_people_and_functions(watched: Watched) -> None:
    page = watched.open("#part=next")
    page.fill("#dots-both", "20")
    assert "20 / 50 = 40.0\u00a0%" in page.inner_text(".card:has(.dots)")
    assert page.locator(".dots .plays-tennis.plays-football").count() == 20
    page.get_by_role("button", name="football players only").click()
    assert page.locator(".dots .is-out").count() == 50
    cells = page.locator("[data-function=softmax] td")
    before = cells.all_inner_texts()
    linear = page.locator("[data-function='x / sum'] td").all_inner_texts()
    page.fill("#shift", "2")
    assert cells.all_inner_texts() == before  # only differences count
    assert page.locator("[data-function='x / sum'] td").all_inner_texts() != linear
    e = [math.exp(x) for x in (2, 1, 0.5, -1)]
    assert before[:4] == [percent(x / sum(e)) for x in e]


def test_sliders_move_what_they_should(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=temperature&{LINK}&seed=3")
    for name, value, params in [
        ("temperature", "0.5", {"temperature": 0.5}),
        ("top_k", "5", {"temperature": 0.5, "top_k": 10}),  # the sixth of its steps
        ("min_p", "0.2", {"temperature": 0.5, "top_k": 10, "min_p": 0.2}),
    ]:
        page.fill(f"#set-{name}", value)
        page.wait_for_selector(f"[data-stage={name}]")
        found = lens.trace(llm, TEXT, SamplingParams(seed=3, **params))
        assert page.inner_text(".figures dd >> nth=0") == visible(found.draw.text)
        last = found.stages[-1]
        left = page.inner_text(f"[data-stage={last.name}] .faint")
        assert left.startswith(f"{last.n_kept:,} left")
        kept = {visible(row.text): percent(row.p_after) for row in last.top if not row.cut}
        assert kept.items() <= dict(bars(page)).items()
    assert page.locator(".is-cut").count() == 20 - last.n_kept
    best = max(last.top, key=lambda row: row.p_after)
    is_best = best.id == found.draw.token
    assert ("also the most likely" in page.inner_text(".verdict")) == is_best
    assert "cut by" in page.inner_text(".is-cut >> nth=0")
    uniform = f"{found.draw.uniform:.6f}"
    assert uniform in page.inner_text(".card:has(.ruler)")


def test_a_slider_is_answered_in_the_page(watched: Watched) -> None:
    """Each move changes the figures while the server is silent, which is asked for nothing but the
    texts of rare tokens; bench/look.py times it."""
    page, asked = watched.open(f"#part=temperature&{LINK}&top_p=0.95"), []
    page.route("**/look/api/**", lambda route: asked.append(route.request.url))  # no answer
    for value in range(2, 20):
        before = page.inner_text(".figures")
        page.evaluate(
            """value => {
              const slider = document.getElementById("set-temperature");
              slider.value = value;
              slider.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            f"{value / 10:.1f}",
        )
        page.wait_for_function(
            "before => document.querySelector('.figures').innerText !== before", arg=before
        )
    assert {url.rpartition("/")[2] for url in asked} <= {"pieces"}


def test_200_redraws_are_those_of_the_engine(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=temperature&{LINK}&seed=3")
    page.click("text=Draw 200 times")
    page.wait_for_selector("th:has-text('Drawn')")
    counts = {i: n for i, _, n in lens.redraw(llm, TEXT, SamplingParams(seed=3), 200).counts}
    rows: list[list[str]] = (
        page.locator(".bars >> nth=0")
        .locator("tbody tr")
        .evaluate_all(
            "rows => rows.map(row => [row.dataset.id, row.querySelectorAll('td')[1].textContent])"
        )
    )
    assert {int(i): int(n) for i, n in rows} == {int(i): counts.get(int(i), 0) for i, _ in rows}


CLICK_PLAY = """() => {
  const play = [...document.querySelectorAll("button")].find((b) => b.textContent === "Play");
  play.click();
  return play.textContent;
}"""


def test_play_fork_and_tree(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=loop&text=Once+upon+a+time&t=0.7&seed=3")
    play = page.get_by_role("button", name="Play", exact=True)
    assert page.locator(".running-text button").count() == 12  # what a newcomer finds
    assert page.evaluate(CLICK_PLAY) == "Stop"  # the text may be there before a busy machine looks
    play.wait_for()
    words = page.locator(".running-text button")
    steps = [
        *lens.generate(
            llm, "Once upon a time", SamplingParams(temperature=0.7, seed=3), max_tokens=44
        )
    ]
    assert words.evaluate_all("all => all.map(each => Number(each.dataset.id))") == [
        s.id for s in steps
    ]
    words.nth(5).click()
    shown = bars(page)
    assert [(visible(c.text), percent(c.p)) for c in steps[5].top] == shown[:10]
    other = next(c for c in steps[5].top if c.id != steps[5].id)
    page.locator(f".bars [data-id='{other.id}'] button").click()
    play.wait_for()
    said = page.inner_text("[role=status].faint")
    assert int(re.findall(r"First token after (\d+) ms", said)[0]) < 60_000, said
    ids = words.evaluate_all("all => all.map(each => Number(each.dataset.id))")
    assert ids[:6] == [*(s.id for s in steps[:5]), other.id]
    assert len(ids) == 6 + 12
    assert page.locator("table:has(caption:has-text('All branches')) tbody tr").count() == 2
    assert page.locator(".tree circle").count() == 4  # context, what is shared, two ends
    page.fill("#forced", " dragon")
    page.get_by_role("button", name="Add").click()
    until(
        page, "document.querySelector('.running-text button:last-child').textContent === ' dragon'"
    )


BACK_AFTER_THREE = """() => {
  const text = document.querySelector(".running-text");
  const back = [...document.querySelectorAll("button")].find((b) => b.textContent === "Back");
  const n = text.children.length + 3;
  new MutationObserver((_, observer) => {
    if (text.children.length < n) return;
    observer.disconnect();
    back.click();
  }).observe(text, { childList: true });
}"""


def test_back_ends_the_text_that_is_being_written(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=loop&text=Once+upon+a+time&t=0&seed=3")
    page.evaluate(BACK_AFTER_THREE)
    play = page.get_by_role("button", name="Play", exact=True)
    play.click()
    play.wait_for()
    greedy = lens.generate(llm, "Once upon a time", SamplingParams(temperature=0), max_tokens=14)
    until(page, "document.querySelectorAll('.running-text button').length === 14")
    shown = page.locator(".running-text button").evaluate_all("all => all.map(b => b.dataset.id)")
    assert shown == [str(step.id) for step in greedy]
    assert page.locator("table:has(caption:has-text('All branches')) tbody tr").count() == 1


def test_three_texts_side_by_side(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=temperature&{LINK}&seed=3")
    page.click("text=Write three texts")
    until(
        page, "[...document.querySelectorAll('.running-text')].every(t => t.children.length === 32)"
    )
    greedy = [*lens.generate(llm, TEXT, SamplingParams(temperature=0), max_tokens=32)]
    assert page.locator(".running-text").first.text_content() == "".join(s.text for s in greedy)


def test_two_settings_are_compared_on_the_same_numbers(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=compare&{LINK}&t=0.6&seed=4&v.bt=0.7")
    sides = [lens.Setting(llm, SamplingParams(temperature=t, seed=4)) for t in (0.6, 0.7)]
    found = lens.compare(*sides, TEXT, max_tokens=20)
    texts = page.locator(".running-text").all_text_contents()
    assert texts == ["".join(each.text for each in side) for side in (found.a, found.b)]
    alike = page.locator(".running-text >> nth=0").locator(".is-alike").count()
    assert alike == (len(found.a) if found.first_difference is None else found.first_difference)
    rows = page.locator("table:has(caption:has-text('Divergence')) td").all_text_contents()
    assert rows == [f"{x:.4f}" for x in found.kl]
    page.fill("#side-b-temperature", "0.6")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".figures dd:text-is('all')")


def test_a_conversation_goes_on(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=loop&text=Say+hello&read=chat&t=0")
    page.fill("#forced", " \U0001f9ff")  # a letter of several tokens
    page.get_by_role("button", name="Add").click()
    page.locator(".running-text .is-forced").nth(1).wait_for()
    written = "all => all.map(each => Number(each.dataset.id))"
    ids: list[int] = page.locator(".running-text button").evaluate_all(written)
    tokenizer = llm.tokenizer
    spelt = [tokenizer.token_bytes(i) for i in ids if i not in tokenizer.special_token_ids]
    said = b"".join(spelt).decode("utf-8", "replace")
    assert said.endswith(" \U0001f9ff")
    page.fill("#next-message", "And goodbye")
    page.get_by_role("button", name="Send").click()
    until(page, "location.hash.includes('messages=')")
    asked = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('messages')")
    assert [each["content"] for each in json.loads(asked)] == [
        "Say hello", said, "And goodbye",
    ]  # fmt: skip
    page.locator(".context-strip", has_text="goodbye").wait_for()
    page.wait_for_selector(".context-strip .is-answer")  # the model answers
    assert page.locator(".context-strip .is-template").count() > 0
