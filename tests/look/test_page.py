"""What holds of every part, and of the frame around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from look_page import Watched, bars, parts, saved_page, until
from pyroclast import LLM, AsyncLLM
from pyroclast.lens import page as lens_page
from pyroclast.server.look import Look
from server_at import serving

SIZES = [(1400, "light"), (360, "dark")]


def test_the_page_loads_one_script(watched: Watched) -> None:
    """The bundle that `make page` built of the scripts that are there."""
    page = watched.open("#part=words")
    scripts = page.evaluate("() => [...document.scripts].map(each => each.getAttribute('src'))")
    assert scripts == ["vendor/page.js"], "the bundle is old: make page"


@pytest.mark.parametrize("part", parts())
def test_a_part_opens_fits_and_can_be_read_by_everyone(watched: Watched, part: str) -> None:
    page = watched.open(f"#part={part}")
    assert page.locator("#notice").is_hidden(), page.inner_text("#notice")
    assert page.inner_text("#part-root").strip()
    assert page.get_attribute("#parts [aria-current]", "data-part") == part
    for width, colours in SIZES:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=colours, reduced_motion="reduce")
        assert watched.serious(*(() if colours == "light" else ("color-contrast",))) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_link_opens_the_view_that_it_was_taken_from(watched: Watched) -> None:
    page = watched.open("#part=temperature&text=Once+upon+a&t=0.8&top_p=0.9&bias=655:1.5&seed=7")
    assert page.input_value("#text") == "Once upon a"
    assert page.input_value("#set-seed") == "7"
    page.fill("#set-seed", "8")
    until(page, "location.hash.includes('seed=8')")
    shown, link = bars(page), page.url.split("/look/")[1]
    for field in ("t=0.8", "top_p=0.9", "bias=655%3A1.5"):
        assert field in link
    again = watched.open(f"?again{link}")
    assert again.input_value("#set-seed") == "8"
    assert bars(again) == shown


def test_text_is_only_ever_text(watched: Watched, browser: Any, tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)> <|im_end|>"
    page = watched.open(f"#part=words&text={quote(bad)}")
    assert page.locator("#part-root img, #part-root script").count() == 0
    assert "".join(page.locator(".chip-text").all_inner_texts()).replace("·", " ") == bad
    offline(browser, saved_page(page, tmp_path), lambda saved: saved.wait_for_selector(".chip"))


@pytest.mark.parametrize("part", ["next", "temperature", "loop"])
def test_an_exported_view_opens_from_disk_without_a_network(
    watched: Watched, browser: Any, tmp_path: Path, part: str
) -> None:
    page = watched.open(f"#part={part}&text=The+sky+is&t=0.7&seed=5")
    if part == "loop":
        words = "document.querySelectorAll('.running-text button').length"
        until(page, f"{words} === 12")
        page.get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Step").click()
        until(page, f"{words} === 13")
    path = saved_page(page, tmp_path)
    of_the_part = ".running-text" if part == "loop" else ".figures"

    def same(saved: Any) -> None:
        shown = page.inner_text(f"#part-root {of_the_part}")
        assert saved.inner_text(f"#part-root {of_the_part}") == shown
        assert saved.locator("#part-root table").count() == page.locator("#part-root table").count()
        if part == "temperature":  # it still computes
            saved.fill("#set-temperature", "2")
            shown = "document.querySelector('[data-stage=temperature]').textContent"
            until(saved, f"{shown}.includes('divided by 2')")
            assert bars(saved) != bars(page)

    offline(browser, path, same)


def offline(browser: Any, path: Path, check: Any) -> None:
    saved = Watched(browser, path.as_uri(), offline=True)
    saved.open("")
    check(saved.page)
    saved.close()


def test_typing_updates_the_view_and_old_answers_are_dropped(watched: Watched) -> None:
    page = watched.open("#part=words")
    page.locator("#text").press_sequentially(" not Berlin", delay=5)
    until(page, "document.querySelector('.chip:last-child .chip-text')?.textContent === '·Berlin'")
    page.locator(".chip").first.focus()
    page.keyboard.press("End")
    assert "·Berlin" in page.inner_text(".detail")
    page.keyboard.press("Home")
    assert "Token 1 of" in page.inner_text(".detail")
    page.get_by_label("Chat message").check()
    page.wait_for_selector(".chip.is-template")


def test_another_model_brings_its_own_facts(watched: Watched) -> None:
    def facts(route: Any) -> None:
        if "nope" in (route.request.post_data or ""):
            route.continue_()
            return
        named = {"model": "other", "vocab_size": 999} if route.request.method == "POST" else {}
        response = route.fetch(method="GET", post_data=None)
        route.fulfill(json={**response.json(), "models": ["demo", "other"], **named})

    def of_the_only_model(route: Any) -> None:
        body = {name: x for name, x in route.request.post_data_json.items() if name != "model"}
        route.continue_(post_data=body)

    watched.page.route("**/api/meta", facts)
    watched.page.route("**/api/tokens", of_the_only_model)
    page = watched.open("#part=words")
    assert "49,152" in page.inner_text("#part-root .figures")
    page.select_option("#model", "other")
    page.locator("#part-root .figures", has_text="999").wait_for()
    again = watched.open("?again#part=words&model=other")
    assert "999" in again.inner_text("#part-root .figures")
    page.goto(f"{watched.url}?nope#part=nothing&model=nope")
    page.locator("#notice", has_text="the model 'nope' does not exist").wait_for()
    page.select_option("#model", "demo")
    page.wait_for_selector(".chip")
    assert page.get_attribute("#parts [aria-current]", "data-part") == "words"
    assert [fault for fault in watched.faults if "404" not in fault] == []
    watched.faults.clear()  # the browser itself reports the refusal


def test_both_sides_are_the_model_of_the_page(watched: Watched) -> None:
    asked: list[dict[str, Any]] = []

    def of_one_model(route: Any) -> None:
        body = route.request.post_data_json
        asked.append(body)
        sides = {side: {"params": body[side]["params"]} for side in "ab"}
        route.continue_(post_data={"text": body["text"], "max_tokens": 2, **sides})

    def facts(route: Any) -> None:
        name = (route.request.post_data_json or {}).get("model", "demo")
        found = route.fetch(method="GET", post_data=None).json()
        route.fulfill(json={**found, "model": name, "models": ["demo", "other", "third"]})

    watched.page.route("**/api/meta", facts)
    watched.page.route("**/api/compare", of_one_model)
    page = watched.open("#part=compare&model=other")
    for name in ("other", "third"):
        page.select_option("#model", name)
        for side in ("a", "b"):
            until(page, f"document.querySelector('[data-side={side}] select').value === '{name}'")
        page.locator("[data-open]").wait_for()
        page.get_by_role("button", name="Compare").click()
        page.wait_for_selector(".running-text")
        assert [asked[-1][side]["model"] for side in "ab"] == [name, name]


def test_an_empty_text_asks_for_words(watched: Watched) -> None:
    page = watched.open("#part=temperature")
    page.fill("#text", "")
    page.locator("#notice", has_text="Write a few words above").wait_for()
    page.fill("#text", "Once")
    until(page, "document.getElementById('notice').hidden")
    assert all("400" in fault for fault in watched.faults)
    watched.faults.clear()  # the browser itself reports the refusal


def test_a_server_that_is_gone_is_told_in_words(watched: Watched) -> None:
    page = watched.open("#part=words")
    page.route("**/api/tokens", lambda route: route.abort())
    page.fill("#text", "gone")
    page.locator("#notice", has_text="The server does not answer").wait_for()
    assert all("ERR_FAILED" in fault for fault in watched.faults)
    watched.faults.clear()  # the browser itself reports it


def test_the_choice_of_colours_is_kept(browser: Any, served: tuple[str, LLM]) -> None:
    watched = Watched(browser, served[0])  # with a storage that no other test sees
    page = watched.open("#part=words")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page = watched.open("?again#part=words")
    assert page.inner_text("#theme") == "Theme: dark"
    watched.close()


def test_without_the_bundle_the_tables_are_complete(
    browser: Any, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the drawings nor the scripts in one."""
    monkeypatch.setattr(lens_page, "is_current", lambda: False)
    with serving({"demo": AsyncLLM.of(llm)}, look=Look()) as running:
        watched = Watched(browser, f"{running.url}/look/")
        watched.page.route("**/vendor/*.js", lambda route: route.fulfill(status=404))
        page = watched.open("#part=next")
        assert "make page" in page.inner_text("#part-root .notice")
        assert len(bars(page)) == 20
        assert [fault for fault in watched.faults if "404" not in fault] == []
        watched.faults.clear()  # the browser itself reports the file that is missing
        watched.close()


def test_the_page_asks_for_the_key_of_a_server_that_wants_one(browser: Any, llm: LLM) -> None:
    with serving({"demo": AsyncLLM.of(llm)}, look=Look(), api_keys=["secret"]) as running:
        watched = Watched(browser, f"{running.url}/look/")
        page = watched.page
        page.goto(f"{watched.url}#part=words")
        page.fill("#key-value", "wrong")
        page.keyboard.press("Enter")
        page.fill("#key-value", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".chip")
        assert all("401" in fault for fault in watched.faults)
        watched.faults.clear()  # the browser itself reports both refusals
        watched.close()


def test_the_keyboard_picks_tokens_and_keeps_its_place(watched: Watched) -> None:
    page = watched.open("#part=temperature&seed=2")
    page.locator(".bars button").first.focus()
    page.keyboard.press("ArrowDown")
    picked = page.evaluate("document.activeElement.textContent")
    assert picked == bars(page)[1][0]
    page.keyboard.press("Enter")
    page.wait_for_selector("[id^=bias-]")
    assert page.evaluate("document.activeElement.textContent") == picked
    before = bars(page)
    page.locator("input[id^=bias-]").fill("5")
    until(page, "document.querySelector('[data-stage=logit_bias]') !== null")
    after = bars(page)
    assert after[1] != before[1]
    page.get_by_label("Allow these tokens only").check()
    page.wait_for_selector("[data-stage=allowed]")
    assert [value for _, value in bars(page) if "cut by mask" not in value] == ["100\u00a0%"]
