"""Meaning, attention, layers, the hood and training: their numbers, and what they do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from look_page import Watched, bars, percent, saved_page, visible
from pyroclast import LLM, AsyncLLM, lens
from pyroclast.server.look import Look
from server_at import serving
from tiny import CONFIGS, random_weights, write_folder

RIVER = "She swam across the river to the other bank"
MONEY = "She took her money to the bank"
WORDS = ["river", "water", "shore", "money", "loan", "finance"]


def fixed(x: float, digits: int = 3) -> str:
    """As the page writes a number."""
    return f"{x:.{digits}f}".replace("-", "\u2212")


def cells(page: Any, selector: str) -> list[list[str]]:
    """The texts of a table's body."""
    found: list[list[str]] = page.locator(f"{selector} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    return found


def test_neighbours_and_sums_are_those_of_the_library(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=meaning")
    [bank] = llm.tokenizer.encode(" bank")
    near = lens.neighbours(llm, bank, 12)
    assert bars(page) == [(visible(each.text), fixed(each.cosine)) for each in near]
    sums = page.locator("section", has_text="Sums with words")
    assert "\u201cqueen\u201d is the nearest of 49,152 tokens." in sums.inner_text()
    sums.get_by_role("button", name="Paris \u2212 France + Italy").click()
    far = lens.analogy(llm, "Paris", "France", "Italy", 8, expected="Rome")
    assert far.rank is not None and far.rank > 10
    sums.get_by_text(f"\u201cRome\u201d is number {far.rank} of 49,152").wait_for()
    page.get_by_role("button", name=visible(near[1].text), exact=True).click()
    page.get_by_text(f"Nearest to {visible(near[1].text)}, token {near[1].id}.").wait_for()
    assert bars(page)[0][0] == visible(lens.neighbours(llm, near[1].id, 1)[0].text)


def test_the_map_moves_zooms_and_finds(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=meaning&v.map=king+queen+Paris+London")
    place = page.locator(".map-word", has_text="queen")
    page.locator(".map").scroll_into_view_if_needed()
    before = place.bounding_box()
    page.locator(".map").focus()
    page.keyboard.press("ArrowLeft")  # what lies to the left comes into view
    assert place.bounding_box()["x"] - before["x"] == pytest.approx(40, abs=1)
    page.mouse.move(before["x"], before["y"])
    page.mouse.down()
    page.mouse.move(before["x"] + 90, before["y"], steps=3)
    page.mouse.up()
    assert place.bounding_box()["x"] - before["x"] == pytest.approx(130, abs=1)
    page.get_by_role("button", name="Show all words").click()
    assert place.bounding_box() == before
    page.get_by_role("button", name="Zoom in").click()
    assert place.bounding_box() != before
    page.get_by_label("Find on the map").fill("QUEEN")
    page.wait_for_selector(".map-word.is-found")
    assert page.locator(".map-word.is-found text").all_text_contents() == ["queen"]
    share = lens.word_map(llm, ["king", "queen", "Paris", "London"]).explained
    assert f"Left to right shows {percent(share[0])}" in page.inner_text("#part-root")


def test_bank_looks_at_the_river_and_at_the_money(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=attention")
    told = page.locator(".side .reading")
    first = told.first.inner_text()
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_text("Write a text to see where its words look.").wait_for()
    page.get_by_label("Text", exact=True).fill(RIVER)
    page.get_by_text(first).wait_for()
    head = page.evaluate("document.querySelector('.field select').value")
    layer = int(page.get_by_label("Layer", exact=True).input_value())
    for i, (text, word) in enumerate(((RIVER, " river"), (MONEY, " money"))):
        found = lens.attention(llm, text, layers=[layer], heads=[int(head)])
        row = found.weights[0, 0, -1]
        best = int(np.argmax(row))
        assert found.pieces[best].text == word
        assert (
            f"gives {percent(row[best])} to \u201c{word.strip()}\u201d" in told.nth(i).inner_text()
        )


def test_a_token_a_layer_and_a_head_can_be_chosen(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=attention&v.text_a={RIVER.replace(' ', '+')}&v.layer=9&v.head=2")
    found = lens.attention(llm, RIVER)
    n = len(found.pieces)

    def shown(layer: int, head: int | None, query: int) -> None:
        rows = found.weights[layer] if head is None else found.weights[layer, head : head + 1]
        weights = rows.mean(axis=0)[query, : query + 1]
        order = np.argsort(-weights, kind="stable")[:2]
        words = [
            f"{percent(weights[i])} to \u201c{found.pieces[i].text.strip()}\u201d" for i in order
        ]
        page.get_by_text(f"gives {words[0]}, {words[1]}").wait_for()

    shown(9, 2, n - 1)
    page.get_by_label("Layer", exact=True).fill("12")
    shown(12, 2, n - 1)
    page.get_by_label("Head", exact=True).select_option("mean")
    shown(12, None, n - 1)
    page.locator(".arc-token", has_text="river").click()
    shown(12, None, 4)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    shown(12, None, 5)
    page.get_by_label("Token looked at").select_option("1")
    flat = found.weights[:, :, 5, 1]
    top = np.unravel_index(np.argmax(flat), flat.shape)
    assert (
        page.locator(".heads-list button")
        .first.inner_text()
        .startswith(f"layer {top[0]}, head {top[1]}")
    )
    page.locator(".heads-list button").first.click()
    shown(int(top[0]), int(top[1]), 5)
    page.wait_for_url(lambda url: "v.query_0=5" in url)
    box = page.locator(".heads-floor").first.bounding_box()
    n_layers, n_heads = found.weights.shape[:2]
    at = (20.5 / n_layers * box["width"], 3.5 / n_heads * box["height"])
    page.locator(".heads-floor").first.click(position={"x": at[0], "y": at[1]})
    shown(20, 3, 5)


def test_only_layers_that_fit_and_attend_are_shown(watched: Watched, llm: LLM) -> None:
    n = len(lens.tokens(llm, RIVER).pieces)

    def with_room_for_four_layers(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(json={**answer.json(), "max_bytes_attention": 4 * 4 * 9 * n**2 + 1})

    def without_the_first(route: Any) -> None:
        body = route.request.post_data_json
        answer = route.fetch(post_data={**body, "layers": body["layers"][1:]})
        route.fulfill(response=answer)

    watched.page.route("**/api/meta", with_room_for_four_layers)
    page = watched.open(f"#part=attention&v.text_a={RIVER.replace(' ', '+')}&v.layer=18&v.head=4")
    layer = page.get_by_label("Layer", exact=True)
    assert layer.get_attribute("aria-valuetext") == "19 (0 to 29)"
    for i, number in enumerate((0, 10, 19, 29)):
        layer.fill(str(i))
        assert layer.get_attribute("aria-valuetext") == f"{number} (0 to 29)"
    row = lens.attention(llm, RIVER, layers=[29], heads=[4]).weights[0, 0, -1]
    assert f"gives {percent(row.max())} to" in page.locator(".side .reading").inner_text()
    # The slider has what the answer has: a model may mix attention with other layers.
    page.route("**/api/attention", without_the_first)
    page = watched.open(
        f"?again#part=attention&v.text_a={RIVER.replace(' ', '+')}&v.layer=0&v.head=1"
    )
    assert layer.get_attribute("aria-valuetext") == "10 (0 to 29)"
    assert layer.get_attribute("max") == "2"


def test_what_goes_to_no_token_is_told(watched: Watched) -> None:
    def halved(route: Any) -> None:  # as by a head with a sink
        answer = route.fetch().json()
        weights = np.frombuffer(base64.b64decode(answer["weights_b64"]), "<f4") / 2
        route.fulfill(json={**answer, "weights_b64": base64.b64encode(weights.tobytes()).decode()})

    watched.page.route("**/api/attention", halved)
    page = watched.open("#part=attention&v.text_a=She+swam")
    assert "50.0\u00a0% goes to no token at all." in page.inner_text(".side .reading")


def test_movement_and_rotation(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=attention")
    found = lens.movement(llm, (RIVER, -1), (MONEY, -1), WORDS).cosines
    for step in (len(found[0]) - 1, 7):
        page.get_by_label("Layers passed").fill(str(step))
        a, b = found[:, step]
        wanted = [
            [word, fixed(a[i]), fixed(b[i]), fixed(a[i] - b[i])] for i, word in enumerate(WORDS)
        ]
        assert cells(page, "table.plain") == wanted
    assert page.locator(".lines .line").count() == len(WORDS)
    # By the end, the bank of the river is nearer to water, and that of the money to money.
    assert found[0, -1, 1] > found[1, -1, 1] and found[0, -1, 3] < found[1, -1, 3]
    page.get_by_label("Distance in tokens").fill("10")
    degrees = np.rad2deg(lens.rotation(llm, [10], pair=0).angles[0, 0])
    assert f"{degrees:.1f}\u00b0" in page.locator(".dial").first.inner_text()


ROTATES_NOTHING = """async () => {
  const { rotationOf } = await import("./js/attention_rotation.js");
  const refusal = Object.assign(new Error("it learns positions"), { status: 400 });
  const view = rotationOf({ state: {}, ask: async () => { throw refusal; } });
  await view.show();
  return [view.node.querySelector(".dials").textContent, view.node.querySelector(".field").hidden];
}"""


def test_a_model_that_rotates_nothing_says_so_in_its_place(watched: Watched) -> None:
    page = watched.open("#part=words")
    assert page.evaluate(ROTATES_NOTHING) == ["it learns positions", True]


def test_an_exported_attention_needs_no_server(
    watched: Watched, browser: Any, tmp_path: Path
) -> None:
    page = watched.open("#part=attention")
    told = page.locator(".side .reading").all_inner_texts()
    saved = Watched(browser, saved_page(page, tmp_path).as_uri(), offline=True)
    copy = saved.open("")
    assert copy.locator(".side .reading").all_inner_texts() == told
    assert cells(copy, "table.plain") == cells(page, "table.plain")
    for each in (page, copy):
        each.get_by_label("Layer", exact=True).fill("4")
    moved = page.locator(".side .reading").all_inner_texts()
    assert copy.locator(".side .reading").all_inner_texts() == moved != told
    saved.close()


def test_layers_are_those_of_the_library(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=layers&text=The+capital+of+France+is")
    found = lens.layers(llm, "The capital of France is", k=4)
    for row, shown in zip(found.rows, cells(page, "table.layers"), strict=True):
        assert shown[0] == ("start" if row.layer < 0 else str(row.layer))
        wanted = [f"{visible(each.text)} {percent(each.p)}" for each in row.top]
        assert shown[1:5] == wanted
        assert shown[5] == fixed(np.exp(row.entropy), 1)
        if row.layer >= 0:
            assert fixed(row.norm_attention, 1) in shown[6]
            assert shown[7].endswith(fixed(row.effect_feed_forward, 2))
    assert "\u201cParis\u201d leads" in page.inner_text(".reading")
    page.locator(".token-choice", has_text="France").click()
    page.get_by_text("\u201cis\u201d leads").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "\u00b7France"
    page.fill("#text", "")
    page.get_by_text("Write a few words").wait_for()
    assert page.locator("table.layers, .token-choice").count() == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Watched]:
    """The page of a tiny model, with a training run of two checkpoints."""
    run = tmp_path_factory.mktemp("runs") / "first"
    for step, seed in ((10, 1), (20, 2)):
        config = CONFIGS["llama"]
        write_folder(run / f"step-{step}", config, random_weights(config, seed=seed))
    rows = [{"step": step, "loss": 6.0 - step / 10} for step in range(21)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = [{"step": 10, "text": "abc <b>"}, {"step": 20, "text": "the end"}]
    (run / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    model = AsyncLLM(run / "step-20", threads=1)
    with serving({"tiny": model}, look=Look(run.parent)) as running:
        watched = Watched(browser, f"{running.url}/look/")
        yield watched
        watched.close()
    model.llm.close()


def test_the_hood_lists_the_ops_and_tells_what_a_grammar_leaves(watched: Watched, llm: LLM) -> None:
    page = watched.open("#part=hood&text=The+capital+of+France+is")
    found = lens.hood(llm, "The capital of France is")
    shown = {row[0]: row for row in cells(page, "table.ops")}
    for op in found.ops:
        [row] = [row for name, row in shown.items() if name.startswith(op.op)]
        assert row[4] == op.variant
        if op.n_bytes is not None and op.n_bytes > 10_000_000:
            assert row[3] == f"{op.n_bytes / 1e6:.1f} MB" and "%" in row[2]
    assert page.locator(".notice:visible").count() == 0
    page.get_by_label("Grammar for the answer").select_option("date")
    page.get_by_text("allows 1. It leaves no choice about what comes next: 2026-").wait_for()


def test_a_run_shows_its_loss_samples_and_predictions(trained: Watched) -> None:
    page = trained.open("#part=training&v.begin=the")
    assert "20 steps: the loss went from 6.00 to 4.00" in page.inner_text(".reading")
    assert "the end" in page.inner_text(".sample")
    assert page.locator(".lines .line").count() == 1
    last = bars(page)
    page.get_by_label("Checkpoint").fill("0")
    assert page.inner_text(".sample").startswith("abc <b>")
    assert [token for token, _ in bars(page)] == [token for token, _ in last]
    assert bars(page) != last


def test_without_a_run_the_page_says_how_to_make_one(watched: Watched) -> None:
    page = watched.open("#part=training")
    assert "pyroclast look --training FOLDER" in page.inner_text("#part-root")
